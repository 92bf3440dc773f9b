package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// ErrNotMember: the certificate shown is not that of a member of this cluster.
var ErrNotMember = errors.New("trust: not a member's certificate: the other side has another token")

// Certificates are valid from before any clock of a board without one, to
// beyond its life: what must be kept out lacks the token, whatever the date.
var (
	validFrom  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	validNow   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// memberScheme begins the URI that makes a certificate a member's.
const memberScheme = "limpet-member"

// authority is the cluster's CA.
type authority struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate
}

// authority is the same, byte for byte, on every member: Ed25519 signatures are
// deterministic.
func (t Token) authority() (*authority, error) {
	key := ed25519.NewKeyFromSeed(t.derive("limpet cluster ca 1"))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "limpet cluster"},
		NotBefore: validFrom, NotAfter: validUntil,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key, cert}, err
}

// MemberTLS is TLS between members, for both ends, as member id. Each end
// proves to be a member; who it is, the greeting tells.
func (t Token) MemberTLS(id uint64) (*tls.Config, error) {
	ca, err := t.authority()
	if err != nil {
		return nil, err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%x", id)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{CommonName: "limpet member " + name},
		URIs:      []*url.URL{{Scheme: memberScheme, Opaque: name}},
		NotBefore: validFrom, NotAfter: validUntil,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("make this member's certificate: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"limpet-peer"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAnyClientCert,
		// Names and dates mean nothing between members; ca.verify does the work.
		InsecureSkipVerify:     true,
		VerifyConnection:       ca.verify,
		SessionTicketsDisabled: true, // every connection is verified anew
	}, nil
}

// verify runs at the end of each handshake, on both sides. Its error is of the
// type that crypto/tls has for this.
func (a *authority) verify(s tls.ConnectionState) error {
	if err := a.judge(s); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
	}
	return nil
}

func (a *authority) judge(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return ErrNotMember
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	leaf := s.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: validNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return ErrNotMember
	}
	for _, u := range leaf.URIs {
		if strings.EqualFold(u.Scheme, memberScheme) {
			return nil
		}
	}
	return ErrNotMember
}
