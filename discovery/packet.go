package discovery

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

// errPacket: not a packet of a beacon with our key.
var errPacket = errors.New("discovery: not a beacon packet of this cluster")

type packetKind uint8

const (
	kindAsk    packetKind = 1
	kindAnswer packetKind = 2
)

const (
	packetMagic   = "lmpt"
	packetVersion = 1
	packetHeader  = len(packetMagic) + 1
	packetSeal    = 12 + 16 // AES-GCM nonce and tag
	// packetBytes is the size of every packet. An answer is no longer than the
	// ask, so that nobody gains by having answers sent to a third party.
	packetBytes   = 512
	packetBody    = packetBytes - packetHeader - packetSeal
	maxAnnounced  = 16  // addresses in one answer
	maxHostLength = 253 // of a DNS name
)

// packet is what beacons send.
type packet struct {
	kind  packetKind
	nonce uint64 // of the ask; the answer repeats it
	addrs []string
}

// sealer encrypts and authenticates packets with one key. Safe for concurrent
// use. The sealing nonces are random; at a few packets a second their 96 bits
// last for centuries.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	if len(key) != KeySize {
		return sealer{}, fmt.Errorf("beacon key has %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead}, err
}

// seal encodes p in packetBytes bytes; addresses that do not fit are left out:
//
//	offset size
//	     0    4  "lmpt"
//	     4    1  version, 1
//	     5   12  AES-GCM nonce
//	    17    …  encrypted, the five bytes in front authenticated with it:
//	             1  kind: 1 ask, 2 answer
//	             8  nonce of the ask, big-endian
//	             1  number of addresses, then each: 2 length, big-endian, and bytes
//	             …  zeros up to packetBytes in all
//	            16  AES-GCM tag
func (s sealer) seal(p packet) []byte {
	body := make([]byte, 0, packetBody)
	body = append(body, byte(p.kind))
	body = binary.BigEndian.AppendUint64(body, p.nonce)
	count := len(body)
	body = append(body, 0)
	for _, a := range p.addrs {
		if body[count] == maxAnnounced || len(body)+2+len(a) > packetBody {
			break
		}
		body = appendString(body, a)
		body[count]++
	}
	out := make([]byte, packetHeader, packetBytes)
	copy(out, packetMagic)
	out[packetHeader-1] = packetVersion
	return s.aead.Seal(out, nil, body[:packetBody], out)
}

// open is the inverse of seal.
func (s sealer) open(b []byte) (packet, error) {
	if len(b) != packetBytes || string(b[:len(packetMagic)]) != packetMagic || b[packetHeader-1] != packetVersion {
		return packet{}, errPacket
	}
	body, err := s.aead.Open(nil, nil, b[packetHeader:], b[:packetHeader])
	if err != nil {
		return packet{}, errPacket
	}
	return decodePacket(body)
}

func decodePacket(body []byte) (packet, error) {
	if len(body) < 10 {
		return packet{}, errPacket
	}
	p := packet{kind: packetKind(body[0]), nonce: binary.BigEndian.Uint64(body[1:])}
	n, rest := int(body[9]), body[10:]
	if p.kind != kindAsk && p.kind != kindAnswer || n > maxAnnounced {
		return packet{}, errPacket
	}
	for range n {
		a, more, ok := cutString(rest)
		if !ok || len(a) > maxHostLength+1+5 {
			return packet{}, errPacket
		}
		p.addrs, rest = append(p.addrs, a), more
	}
	return p, nil
}
