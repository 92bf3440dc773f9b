package trust

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// minTokenBits is the least a token must hold.
const minTokenBits = 128

// Token is the cluster's secret.
type Token struct{ secret []byte }

// ParseToken reads a token: at least 32 hexadecimal digits. Letter case and
// space around it do not matter.
func ParseToken(s string) (Token, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	secret, err := hex.DecodeString(s)
	if err != nil {
		return Token{}, fmt.Errorf("the token is not hexadecimal; make one with: limpet token generate")
	}
	if len(secret)*8 < minTokenBits {
		return Token{}, fmt.Errorf("the token has %d bits, want at least %d; make one with: limpet token generate", len(secret)*8, minTokenBits)
	}
	return Token{secret}, nil
}

// GenerateToken returns a new token as text.
func GenerateToken() string {
	b := make([]byte, minTokenBits/8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// String does not show the token.
func (t Token) String() string { return "token(…)" }

// GossipKey is the key of gossip, 32 bytes.
func (t Token) GossipKey() []byte { return t.derive("limpet gossip 1") }

// BeaconKey is the key of the LAN beacon, 32 bytes.
func (t Token) BeaconKey() []byte { return t.derive("limpet beacon 1") }

// Fingerprint names the token without telling anything of it: 16 hexadecimal
// digits. It may be shown, logged and agreed on.
func (t Token) Fingerprint() string {
	return hex.EncodeToString(t.derive("limpet fingerprint 1")[:8])
}

// Reveal is the token as text, the form in which it is stored and given to
// members. It must reach no log, error or metric.
func (t Token) Reveal() string { return hex.EncodeToString(t.secret) }

// derive gives each use a key of its own, so that one tells nothing of another.
func (t Token) derive(use string) []byte {
	key, err := hkdf.Key(sha256.New, t.secret, nil, use, 32)
	if err != nil {
		panic(err) // only lengths can be wrong, and they are constants
	}
	return key
}
