package irohrelay

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
)

// NodeID names a client: its ed25519 public key, which it makes anew at each
// start.
type NodeID [ed25519.PublicKeySize]byte

// String returns the first octets in hexadecimal: enough to follow one client
// through a log, too little to find it again elsewhere.
func (n NodeID) String() string { return hex.EncodeToString(n[:5]) }

// Type says what a frame is.
type Type byte

// The frames of protocol version 3.
const (
	ClientInfo    Type = 2  // client, first: who it is
	SendPacket    Type = 4  // client: destination, packet
	RecvPacket    Type = 5  // server: source, packet
	KeepAlive     Type = 6  // of earlier servers
	NotePreferred Type = 7  // of earlier clients
	NodeGone      Type = 8  // server: a client that was in contact is gone
	Ping          Type = 12 // both: 8 octets
	Pong          Type = 13 // both: the octets of the Ping
	Health        Type = 14 // server: text
	Restarting    Type = 15 // server: two durations
)

// Sizes of frames, in octets.
const (
	HeaderSize = 5        // type, length of the payload
	MaxPacket  = 64 << 10 // that one frame carries
	maxPayload = len(NodeID{}) + MaxPacket
	maxFirst   = 1 << 10 // payload before a client has shown who it is
	pingSize   = 8
	infoSize   = len(magic) + ed25519.PublicKeySize + ed25519.SignatureSize
	version    = 3
)

const magic = "RELAY\xf0\x9f\x94\x91"

// Errors about what a client sent. They end its connection.
var (
	errType      = errors.New("unknown frame")
	errLength    = errors.New("wrong length of a frame")
	errFirst     = errors.New("the first frame does not say who it is")
	errMagic     = errors.New("another protocol")
	errKey       = errors.New("weak key")
	errSignature = errors.New("wrong signature")
	errVersion   = errors.New("another protocol version")
	errHealth    = errors.New("a frame that only servers send")
)

// sizes is the least and the greatest payload of each type.
var sizes = map[Type][2]int{
	ClientInfo: {infoSize, maxFirst}, SendPacket: {len(NodeID{}), maxPayload}, RecvPacket: {len(NodeID{}), maxPayload},
	KeepAlive: {0, 0}, NotePreferred: {1, 1}, NodeGone: {len(NodeID{}), len(NodeID{})}, Ping: {pingSize, pingSize}, Pong: {pingSize, pingSize},
	Health: {0, maxPayload}, Restarting: {8, 8},
}

// parseHeader reads the five octets before a payload. Nothing may be allocated
// for a payload before it agreed to the length.
func parseHeader(b [HeaderSize]byte) (t Type, n int, err error) {
	t = Type(b[0])
	size, known := sizes[t]
	if !known {
		return 0, 0, errType
	}
	length := binary.BigEndian.Uint32(b[1:])
	if length > uint32(size[1]) || length < uint32(size[0]) {
		return 0, 0, errLength
	}
	return t, int(length), nil
}

// AppendFrame appends a frame to b. The payload comes in parts.
func AppendFrame(b []byte, t Type, payload ...[]byte) []byte {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	b = append(b, byte(t))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	for _, p := range payload {
		b = append(b, p...)
	}
	return b
}

// AppendClientInfo appends the frame by which the owner of a key begins.
func AppendClientInfo(b []byte, key ed25519.PrivateKey) []byte {
	message := []byte{version}
	return AppendFrame(b, ClientInfo, []byte(magic), key.Public().(ed25519.PublicKey), ed25519.Sign(key, message), message)
}

// parseInfo reads the payload of a ClientInfo. The version is checked last, by
// checkVersion: somebody who may not come in is told that first.
func parseInfo(p []byte) (id NodeID, message []byte, err error) {
	if len(p) < infoSize {
		return id, nil, errLength
	}
	if string(p[:len(magic)]) != magic {
		return id, nil, errMagic
	}
	p = p[len(magic):]
	key, sig, message := p[:len(id)], p[len(id):len(id)+ed25519.SignatureSize], p[len(id)+ed25519.SignatureSize:]
	if smallOrder(key) || smallOrder(sig[:32]) {
		return id, nil, errKey
	}
	if !ed25519.Verify(key, message, sig) {
		return id, nil, errSignature
	}
	return NodeID(key), message, nil
}

// checkVersion reads a number of seven bits an octet. What follows it belongs to
// clients of other times and is ignored.
func checkVersion(message []byte) error {
	if v, n := binary.Uvarint(message); n <= 0 || v != version {
		return errVersion
	}
	return nil
}

// weak are the encodings of points of small order, sign bit cleared. A signature
// made with one fits any message: Go's verifier accepts them, that of the
// clients does not.
var weak = func() (list [][]byte) {
	for _, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	} {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != 32 {
			panic("irohrelay: point " + strconv.Quote(s))
		}
		list = append(list, b)
	}
	return list
}()

func smallOrder(point []byte) bool {
	var p [32]byte
	copy(p[:], point)
	p[31] &= 0x7f
	for _, w := range weak {
		if bytes.Equal(p[:], w) {
			return true
		}
	}
	return false
}

// discoMagic begins the packets by which clients look for a direct path.
const discoMagic = "TS\xf0\x9f\x92\xac"

// isDisco reports whether a packet is one of those. Clients of 0.35 put the
// length of the datagram before it.
func isDisco(p []byte) bool {
	const least = len(discoMagic) + 32
	return len(p) >= least && (string(p[:len(discoMagic)]) == discoMagic || string(p[2:2+len(discoMagic)]) == discoMagic)
}
