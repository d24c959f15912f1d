package inlet

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// tellOrigin lets the system say of each packet at which address it came.
func tellOrigin(conn *net.UDPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var four, six error
	if err := raw.Control(func(fd uintptr) {
		six = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		four = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}); err != nil {
		return false
	}
	return four == nil || six == nil
}

// answerFrom turns what the system said of a packet into what it is told of the
// answer, or nil when that is none of its addresses.
func answerFrom(info []byte) []byte {
	var found []byte
	for len(info) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(info)
		if err != nil {
			break
		}
		info = rest
		switch {
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			ip := netip.AddrFrom16([16]byte(data[:16]))
			if usable(ip) {
				p := unix.Inet6Pktinfo{Addr: ip.As16()}
				if ip.IsLinkLocalUnicast() && !ip.Is4In6() {
					p.Ifindex = binary.NativeEndian.Uint32(data[16:])
				}
				return unix.PktInfo6(&p)
			}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// Interface, the address that answers, the one that was asked.
			if ip := netip.AddrFrom4([4]byte(data[8:12])); usable(ip) {
				found = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: ip.As4()})
			}
		}
	}
	return found
}

func usable(ip netip.Addr) bool {
	return !ip.Unmap().IsMulticast() && !ip.Unmap().IsUnspecified() && ip.Unmap() != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
