package trust

import (
	"bytes"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
)

const text = "000102030405060708090a0b0c0d0e0f"

func parse(t *testing.T, s string) Token {
	t.Helper()
	token, err := ParseToken(s)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokens(t *testing.T) {
	for s, want := range map[string]string{
		text: "", " " + strings.ToUpper(text) + "\n": "", text + "ff": "", GenerateToken(): "",
		"": "0 bits", text[2:]: "120 bits", "secret": "hexadecimal", text + "f": "hexadecimal",
	} {
		_, err := ParseToken(s)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "limpet token generate")) {
			t.Errorf("ParseToken(%q): %v, want %q", s, err, want)
		}
		if err != nil && s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("the error %q shows the token", err)
		}
	}
	if s := parse(t, text).String(); strings.Contains(s, "0001") {
		t.Errorf("a token prints as %q", s)
	}
	if a, b := GenerateToken(), GenerateToken(); a == b {
		t.Error("two generated tokens are the same")
	}
}

// Every member derives the same from a token, each use has its own key, and
// another token shares nothing.
func TestDerivedKeys(t *testing.T) {
	a, again, b := parse(t, text), parse(t, strings.ToUpper(text)), parse(t, text+"00")
	if !bytes.Equal(a.GossipKey(), again.GossipKey()) || !bytes.Equal(a.BeaconKey(), again.BeaconKey()) {
		t.Error("the same token gives two keys")
	}
	if len(a.GossipKey()) != 32 || bytes.Equal(a.GossipKey(), a.BeaconKey()) || bytes.Equal(a.GossipKey(), b.GossipKey()) {
		t.Error("keys are short, or shared between uses or tokens")
	}
	ca, err := a.authority()
	if err != nil {
		t.Fatal(err)
	}
	same, _ := again.authority()
	if !bytes.Equal(ca.cert.Raw, same.cert.Raw) {
		t.Error("the authority differs between two members")
	}
}

// handshake returns what each end says.
func handshake(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("!")) // after the handshake
			_ = c.Close()
		}
		done <- err
	}()
	c, atClient := tls.Dial("tcp", l.Addr().String(), client)
	if atClient == nil {
		// With TLS 1.3 a refusal arrives after the client's own handshake.
		_, atClient = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	atServer = <-done
	_ = l.Close()
	return atServer, atClient
}

func memberTLS(t *testing.T, token string) *tls.Config {
	t.Helper()
	return keyring(t, token).MemberTLS(0xabc)
}

func keyring(t *testing.T, inUse string, others ...string) *Keyring {
	t.Helper()
	k, err := NewKeyring(parse(t, inUse), tokens(t, others)...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func tokens(t *testing.T, texts []string) (out []Token) {
	t.Helper()
	for _, s := range texts {
		out = append(out, parse(t, s))
	}
	return out
}

func TestMembersMeet(t *testing.T) {
	if s, c := handshake(t, memberTLS(t, text), memberTLS(t, text)); s != nil || c != nil {
		t.Errorf("members of one cluster: %v, %v", s, c)
	}
	s, c := handshake(t, memberTLS(t, text), memberTLS(t, text+"ff"))
	if s == nil || !errors.Is(c, ErrNotMember) {
		t.Errorf("members with two tokens: %v, %v; want ErrNotMember", s, c)
	}
	// A caller that does not look learns nothing either.
	blind := memberTLS(t, text+"ff")
	blind.VerifyConnection = nil
	if s, _ := handshake(t, memberTLS(t, text), blind); !errors.Is(s, ErrNotMember) {
		t.Errorf("a foreign caller: %v, want ErrNotMember", s)
	}
	blind.GetClientCertificate = nil
	if s, c := handshake(t, memberTLS(t, text), blind); s == nil || c == nil {
		t.Errorf("a caller without certificate: %v, %v", s, c)
	}
}
