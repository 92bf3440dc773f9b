package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
)

// The labels of PEM (RFC 7468).
const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// CAPEM is the certificate of the cluster's authority, for clients that are to
// know the cluster's servers.
func (t Token) CAPEM() ([]byte, error) {
	ca, err := t.authority()
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: ca.cert.Raw}), nil
}

// IssueClient makes a certificate for a client, and its key, both PEM. With
// users, cn is the user. names are host names and addresses, as of a server.
func (t Token) IssueClient(cn string, names []string) (cert, key []byte, err error) {
	return t.issue(cn, names, x509.ExtKeyUsageClientAuth)
}

// IssueServer makes a certificate for a server that clients find under names:
// host names and addresses. Both results are PEM.
func (t Token) IssueServer(cn string, names []string) (cert, key []byte, err error) {
	return t.issue(cn, names, x509.ExtKeyUsageServerAuth)
}

// issue never makes a member's certificate: that takes a URI, see judge.
func (t Token) issue(cn string, names []string, use x509.ExtKeyUsage) (cert, key []byte, err error) {
	ca, err := t.authority()
	if err != nil {
		return nil, nil, err
	}
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{CommonName: cn},
		NotBefore: validFrom, NotAfter: validUntil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate for %q: %w", cn, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: secret}), nil
}

// randomSerial is one that no other certificate has.
func randomSerial() *big.Int {
	b := make([]byte, 15)
	_, _ = rand.Read(b) // never fails
	return new(big.Int).SetBytes(append([]byte{1}, b...))
}
