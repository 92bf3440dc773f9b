package trust

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
)

const newer = text + "0123"

// Everybody who holds a token in common with the other side gets through,
// whichever each has in use; who has none in common does not.
func TestMembersMeetDuringARotation(t *testing.T) {
	old, before, after, now := keyring(t, text), keyring(t, text, newer), keyring(t, newer, text), keyring(t, newer)
	for _, c := range []struct {
		name string
		a, b *Keyring
		meet bool
	}{
		{"old and before the switch", old, before, true},
		{"old and after the switch", old, after, true},
		{"before and after the switch", before, after, true},
		{"after the switch and new", after, now, true},
		{"old and new", old, now, false},
		{"foreign and after the switch", keyring(t, text+"ff"), after, false},
	} {
		for _, pair := range [][2]*Keyring{{c.a, c.b}, {c.b, c.a}} {
			s, cl := handshake(t, pair[0].MemberTLS(1), pair[1].MemberTLS(2))
			if met := s == nil && cl == nil; met != c.meet {
				t.Errorf("%s: %v, %v; want them to meet: %v", c.name, s, cl, c.meet)
			}
		}
	}
}

// One configuration follows the keyring: what it shows, and whom it accepts.
func TestTLSFollowsTheKeyring(t *testing.T) {
	k := keyring(t, text)
	cfg := k.MemberTLS(1)
	if s, c := handshake(t, cfg, memberTLS(t, newer)); s == nil || c == nil {
		t.Fatalf("before: %v, %v", s, c)
	}
	if err := k.Set(parse(t, newer), parse(t, text)); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{text, newer} {
		if s, c := handshake(t, cfg, memberTLS(t, other)); s != nil || c != nil {
			t.Errorf("while both are trusted, with %s: %v, %v", other, s, c)
		}
	}
	if err := k.Set(parse(t, newer)); err != nil {
		t.Fatal(err)
	}
	blind := memberTLS(t, text)
	blind.VerifyConnection = nil
	if s, _ := handshake(t, cfg, blind); !errors.Is(s, ErrNotMember) {
		t.Errorf("after the old one was dropped: %v, want ErrNotMember", s)
	}
	if got, want := k.Fingerprints(), []string{parse(t, newer).Fingerprint()}; !slices.Equal(got, want) {
		t.Errorf("fingerprints: got %v, want %v", got, want)
	}
}

// A certificate of the new authority, with the chain, convinces who knows only
// the old CA and looks as any client does; so does it who knows only the new.
func TestChainForClients(t *testing.T) {
	k := keyring(t, newer, text)
	cert, err := k.now.Load().cas[0].memberCertificate(1)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	for _, der := range k.Chain() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	for _, know := range []string{text, newer} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: keyring(t, know).CAs(), Intermediates: between}); err != nil {
			t.Errorf("who knows the CA of %s: %v", know, err)
		}
	}
	stranger := keyring(t, text+"ff").CAs()
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: stranger, Intermediates: between}); err == nil {
		t.Error("a stranger trusts the chain")
	}
	again := keyring(t, newer, text)
	if !slices.EqualFunc(k.Chain(), again.Chain(), bytes.Equal) {
		t.Error("the chain differs between two members")
	}
}

// The chain helps nobody who has no certificate of a member.
func TestChainMakesNoMember(t *testing.T) {
	k := keyring(t, newer, text)
	ca, err := x509.ParseCertificate(k.Chain()[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range [][]*x509.Certificate{nil, {ca}, {k.now.Load().cas[0].cert}} {
		if err := k.verify(tls.ConnectionState{PeerCertificates: shown}); !errors.Is(err, ErrNotMember) {
			t.Errorf("%d certificates: %v, want ErrNotMember", len(shown), err)
		}
	}
}

// A fingerprint names a token, and shows nothing of it.
func TestFingerprints(t *testing.T) {
	a, b := parse(t, text).Fingerprint(), parse(t, newer).Fingerprint()
	if a == b || len(a) != 16 || a != parse(t, strings.ToUpper(text)).Fingerprint() || strings.Contains(text, a) {
		t.Errorf("fingerprints %q and %q", a, b)
	}
	if got := parse(t, strings.ToUpper(text)).Reveal(); got != text {
		t.Errorf("revealed: got %q, want %q", got, text)
	}
}
