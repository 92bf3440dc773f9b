package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"
)

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

// authority returns the token's CA. It is the same, byte for byte, on every member: Ed25519 signatures are
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

// memberCertificate makes a certificate of member id, with a key of its own.
func (a *authority) memberCertificate(id uint64) (*tls.Certificate, error) {
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
	}, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("make this member's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// vouch certifies the authority of another token: whoever trusts only a then
// trusts what other has signed. It is deterministic, too.
func (a *authority) vouch(other *authority) ([]byte, error) {
	sum := sha256.Sum256(slices.Concat(a.cert.SubjectKeyId, other.cert.SubjectKeyId))
	tmpl := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(sum[:15]), Subject: other.cert.Subject,
		NotBefore: validFrom, NotAfter: validUntil,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// Issuer and subject have one name, so x509 would take it for self-signed.
		AuthorityKeyId: a.cert.SubjectKeyId,
	}
	der, err := x509.CreateCertificate(nil, tmpl, a.cert, other.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("vouch for the new certificate authority: %w", err)
	}
	return der, nil
}
