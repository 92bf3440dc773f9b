// Package pki makes authorities, certificates good and bad, and revocation lists, as files. It is
// the twin of limpet's certs/certtest, which this module does not see.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// serials makes each certificate of a test program another one.
var serials atomic.Int64

// Usages of certificates.
var (
	Client = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	Server = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	Both   = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

// CA is an authority.
type CA struct {
	File string // its certificate, PEM
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
	t    testing.TB
	dir  string
}

// Pair is a certificate and its key.
type Pair struct {
	CertFile, KeyFile string
	TLS               tls.Certificate
}

// Leaf says what a certificate is for. The zero value is valid now, for both ends of a connection,
// under no name.
type Leaf struct {
	CN          string
	Groups      []string // as Kubernetes reads the organization
	Names       []string // host names and addresses
	Usages      []x509.ExtKeyUsage
	From, Until time.Time // zero: an hour ago, in an hour
}

// New makes an authority; its files go with the test.
func New(t testing.TB, cn string) *CA {
	t.Helper()
	ca := &CA{t: t, dir: t.TempDir(), key: newKey(t)}
	tmpl := template(Leaf{CN: cn})
	tmpl.IsCA, tmpl.KeyUsage, tmpl.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	ca.Cert = ca.sign(tmpl, tmpl, ca.key)
	ca.File = filepath.Join(ca.dir, "ca.crt")
	ca.write(ca.File, "CERTIFICATE", ca.Cert.Raw)
	return ca
}

// Issue makes a certificate.
func (ca *CA) Issue(l Leaf) *Pair {
	ca.t.Helper()
	key := newKey(ca.t)
	cert := ca.sign(template(l), ca.Cert, key)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	base := filepath.Join(ca.dir, cert.SerialNumber.String())
	p := &Pair{CertFile: base + ".crt", KeyFile: base + ".key"}
	ca.write(p.CertFile, "CERTIFICATE", cert.Raw)
	ca.write(p.KeyFile, "PRIVATE KEY", secret)
	if p.TLS, err = tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
		ca.t.Fatal(err)
	}
	return p
}

// Revoke writes a list of what is revoked, DER as etcd reads it, into a file.
func (ca *CA) Revoke(file string, pairs ...*Pair) {
	ca.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(serials.Add(1)), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, p := range pairs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: p.TLS.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.Cert, ca.key)
	if err == nil {
		err = os.WriteFile(file, der, 0o600)
	}
	if err != nil {
		ca.t.Fatal(err)
	}
}

// Copy puts the files of p where those of q are.
func (p *Pair) Copy(t testing.TB, q *Pair) {
	t.Helper()
	for from, to := range map[string]string{p.CertFile: q.CertFile, p.KeyFile: q.KeyFile} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func template(l Leaf) *x509.Certificate {
	if l.From.IsZero() {
		l.From = time.Now().Add(-time.Hour)
	}
	if l.Until.IsZero() {
		l.Until = time.Now().Add(time.Hour)
	}
	if l.Usages == nil {
		l.Usages = Both
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1000 + serials.Add(1)), Subject: pkix.Name{CommonName: l.CN, Organization: l.Groups},
		NotBefore: l.From, NotAfter: l.Until, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: l.Usages,
	}
	for _, name := range l.Names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	return tmpl
}

func (ca *CA) sign(tmpl, by *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	ca.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert
}

func (ca *CA) write(file, label string, der []byte) {
	ca.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
