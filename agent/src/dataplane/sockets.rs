//! Where the running kernel's sockets have what the programs read of them.

use std::fs;

use fairlead_abi::SocketOffsets;

use super::btf::Btf;

/// The kernel's description of its types.
const DESCRIPTION: &str = "/sys/kernel/btf/vmlinux";

/// Offsets of the fields that programs read of sockets.
///
/// # Errors
/// Why they are not known, for people.
pub fn socket_offsets() -> Result<SocketOffsets, String> {
    let data = fs::read(DESCRIPTION).map_err(|error| format!("{DESCRIPTION}: {error}"))?;
    let btf = Btf::read(&data).ok_or_else(|| format!("{DESCRIPTION} is of a format that is not known"))?;
    let offset = |structure, field| {
        btf.offset(structure, field).ok_or_else(|| format!("this kernel has no {structure}.{field}"))
    };
    Ok(SocketOffsets {
        rcv_nxt: offset("tcp_sock", "rcv_nxt")?,
        rcv_wnd: offset("tcp_sock", "rcv_wnd")?,
        snd_una: offset("tcp_sock", "snd_una")?,
        snd_nxt: offset("tcp_sock", "snd_nxt")?,
        snt_isn: offset("tcp_request_sock", "snt_isn")?,
        padding: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_running_kernel_are_found_where_it_describes_itself() {
        if !fs::exists(DESCRIPTION).unwrap() {
            eprintln!("skipped: this kernel was built without BTF");
            return;
        }
        let SocketOffsets { rcv_nxt, rcv_wnd, snd_una, snd_nxt, snt_isn, .. } = socket_offsets().unwrap();
        let mut all = [rcv_nxt, rcv_wnd, snd_una, snd_nxt];
        all.sort_unstable();
        assert!(all[0] > 0 && all.windows(2).all(|pair| pair[0] + 4 <= pair[1]), "{all:?}");
        assert!(snt_isn > 0);
    }
}
