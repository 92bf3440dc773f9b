package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// Files are the files of one side, by path; what is empty is not there.
type Files struct {
	Cert, Key             string
	CallerCert, CallerKey string // shown by a member that calls; empty: Cert and Key
	TrustedCA             string // who is accepted; empty: Config.Authority, or the system's authorities
	CRL                   string // revocation list, DER or PEM
}

// readPair reads a certificate with its chain, and its key.
func readPair(certFile, keyFile string) (*tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key: %w", certFile, keyFile, err)
	}
	return &pair, nil
}

// readBundle reads certificates of authorities.
func readBundle(file string) (*x509.CertPool, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, found := x509.NewCertPool(), false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		pool.AddCert(cert)
		found = true
	}
	if !found {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return pool, nil
}

// readCRL returns the serial numbers that are revoked. As in etcd
// (transport.checkCRL) neither the issuer nor the dates of the list matter.
func readCRL(file string) (map[string]bool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	list, err := x509.ParseRevocationList(data)
	if err != nil {
		return nil, fmt.Errorf("%s is not a revocation list: %w", file, err)
	}
	revoked := make(map[string]bool, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		revoked[e.SerialNumber.Text(16)] = true
	}
	return revoked, nil
}

// errNoMembers: usages are fixed when a certificate is made.
var errNoMembers = errors.New("its extended key usages do not allow both server and client authentication, which a member needs: have one issued with both, or with none")

// servesBothEnds reports whether a certificate may be shown by either end of a
// connection.
func servesBothEnds(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	server, client := false, false
	for _, u := range c.ExtKeyUsage {
		server = server || u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny
		client = client || u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny
	}
	return server && client
}
