package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// credentials are the key files of one cluster: an authority, what it signed,
// and the key that service account tokens are signed with.
type credentials struct {
	dir    string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	serial int64
}

// newCredentials writes ca, apiserver, admin, controller-manager (.crt, .key) and
// service-account.key into dir.
func newCredentials(dir string) (*credentials, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &credentials{dir: dir}
	if err := c.foundAuthority(); err != nil {
		return nil, err
	}
	serving := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if err := c.issue("apiserver", serving); err != nil {
		return nil, err
	}
	admin := client(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err := c.issue("admin", admin); err != nil {
		return nil, err
	}
	manager := client(pkix.Name{CommonName: "system:kube-controller-manager"})
	if err := c.issue("controller-manager", manager); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return c, c.writeKey("service-account", key)
}

// client is the template of a client certificate.
func client(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{Subject: subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// path is where a file of these credentials lies.
func (c *credentials) path(name string) string { return filepath.Join(c.dir, name) }

// restConfig is a client's way in as the named holder of a certificate.
func (c *credentials) restConfig(server, name string) *rest.Config {
	return &rest.Config{
		Host: server,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile:   c.path("ca.crt"),
			CertFile: c.path(name + ".crt"),
			KeyFile:  c.path(name + ".key"),
		},
		QPS:            -1, // no limit on this side
		WarningHandler: rest.NoWarnings{},
	}
}

// kubeconfig writes name.kubeconfig for a program and returns its path.
func (c *credentials) kubeconfig(server, name string) (string, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters["e2e"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: c.path("ca.crt")}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificate: c.path(name + ".crt"), ClientKey: c.path(name + ".key")}
	config.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: name}
	config.CurrentContext = "e2e"
	path := c.path(name + ".kubeconfig")
	return path, clientcmd.WriteToFile(*config, path)
}

// foundAuthority makes the self-signed root.
func (c *credentials) foundAuthority() (err error) {
	if c.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	c.ca = &x509.Certificate{
		Subject:               pkix.Name{CommonName: "e2e-ca"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return c.sign("ca", c.ca, c.caKey)
}

// issue makes a key and has the authority sign its certificate.
func (c *credentials) issue(name string, template *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return c.sign(name, template, key)
}

// sign writes name.crt and name.key.
func (c *credentials) sign(name string, template *x509.Certificate, key *ecdsa.PrivateKey) error {
	c.serial++
	template.SerialNumber = big.NewInt(c.serial)
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(48 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, key.Public(), c.caKey)
	if err != nil {
		return err
	}
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(c.path(name+".crt"), crt, 0o644); err != nil {
		return err
	}
	return c.writeKey(name, key)
}

// writeKey writes name.key.
func (c *credentials) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
