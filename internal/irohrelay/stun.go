package irohrelay

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"net/netip"
	"time"

	"madmail/internal/address"
)

// STUN Binding, RFC 8489.
const (
	stunHeader      = 20
	stunCookie      = 0x2112a442
	stunFingerprint = 0x8028
	stunXOR         = 0x5354554e // of the fingerprint, section 14.7
)

// STUNResponse answers a Binding request (RFC 8489 section 7.3.1) that came from
// from. It reports false for what is to be dropped: everything else.
func STUNResponse(packet []byte, from netip.AddrPort) ([]byte, bool) {
	if !isBinding(packet) || !from.IsValid() {
		return nil, false
	}
	ip := from.Addr().Unmap().WithZone("")
	b := make([]byte, 0, 44)
	b = append(b, 0x01, 0x01, 0, 0)
	b = append(b, packet[4:stunHeader]...)
	// XOR-MAPPED-ADDRESS, section 14.2.
	family, size := byte(1), 4
	if ip.Is6() {
		family, size = 2, 16
	}
	b = binary.BigEndian.AppendUint16(b, 0x0020)
	b = binary.BigEndian.AppendUint16(b, uint16(4+size))
	b = append(b, 0, family)
	b = binary.BigEndian.AppendUint16(b, from.Port()^stunCookie>>16)
	for i, x := range ip.AsSlice() {
		b = append(b, x^packet[4+i]) // the cookie, then the transaction
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stunHeader))
	return b, true
}

func isBinding(p []byte) bool {
	if len(p) < stunHeader || binary.BigEndian.Uint16(p) != 0x0001 || binary.BigEndian.Uint32(p[4:]) != stunCookie ||
		int(binary.BigEndian.Uint16(p[2:])) != len(p)-stunHeader {
		return false
	}
	for at := stunHeader; at < len(p); {
		if len(p)-at < 4 {
			return false
		}
		kind, size := binary.BigEndian.Uint16(p[at:]), int(binary.BigEndian.Uint16(p[at+2:]))
		end := at + 4 + (size+3)&^3
		if end > len(p) {
			return false
		}
		if kind == stunFingerprint && (size != 4 || end != len(p) || binary.BigEndian.Uint32(p[at+4:]) != crc32.ChecksumIEEE(p[:at])^stunXOR) {
			return false
		}
		at = end
	}
	return true
}

// STUN answers are about as long as the questions. Still nobody is sent more
// than a few, since questions lie about their origin.
const (
	stunPerSource = 50   // answers a second
	stunSources   = 8192 // that are counted in a second; others get nothing
	stunFaults    = 1000 // errors in a row of a socket that is not closed
)

// ServeSTUN answers on a socket until it is closed. Errors are those of a socket
// that does not work any more.
func (h *Hub) ServeSTUN(pc net.PacketConn) error {
	var second time.Time
	sources := make(map[netip.Addr]int)
	buf := make([]byte, 1500)
	for faults := 0; ; {
		n, addr, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if faults++; faults > stunFaults {
				return err
			}
			continue
		}
		faults = 0
		var from netip.AddrPort
		if u, ok := addr.(*net.UDPAddr); ok {
			from = u.AddrPort()
		}
		answer, ok := STUNResponse(buf[:n], from)
		if !ok {
			h.count.stunBad.Add(1)
			continue
		}
		if now := time.Now(); now.Sub(second) >= time.Second {
			second = now
			clear(sources)
		}
		src := address.Network(from.Addr())
		if count := sources[src]; count >= stunPerSource || count == 0 && len(sources) >= stunSources {
			h.count.stunTooMany.Add(1)
			continue
		}
		sources[src]++
		if src.Is4() {
			h.count.stun4.Add(1)
		} else {
			h.count.stun6.Add(1)
		}
		_, _ = pc.WriteTo(answer, addr) // they ask again
	}
}
