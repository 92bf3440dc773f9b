package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/credentials"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// authority issues the certificates of a story.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
	made int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := a.template("the authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a.cert, a.key = template, nil
	issued := a.issue(template)
	a.cert, a.key = issued.Leaf, issued.PrivateKey.(crypto.Signer)
	return a
}

func (a *authority) template(name string) *x509.Certificate {
	a.made++
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.made),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

// issue signs a certificate for a key of its own; the authority's own, as long as there is none.
func (a *authority) issue(template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// files writes a certificate and its key.
func (a *authority) files(cert tls.Certificate) (certFile, keyFile string) {
	a.t.Helper()
	folder := a.t.TempDir()
	certFile, keyFile = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	writeFile(a.t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Leaf.Raw}))
	writeFile(a.t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	return certFile, keyFile
}

// secrets are what a client with a certificate needs to speak to a server of the authority.
func (a *authority) secrets(name string) credentials.TransportCredentials {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{a.issue(a.template(name))}, RootCAs: pool})
}

// TestAuthCertificates has users say who they are by a certificate, over https; whoever comes over
// plain http has none.
func TestAuthCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	certFile, keyFile := ca.files(ca.issue(ca.template("server")))
	caFile, _ := ca.files(tls.Certificate{Leaf: ca.cert, PrivateKey: ca.key})
	https := map[*proc.Server]string{}
	pair := side.NewPair(t, subject(), func(s *proc.Server) {
		https[s] = proc.FreeAddr(t)
		proc.Flags("--listen-client-urls=http://"+s.Client+",https://"+https[s], "--cert-file="+certFile, "--key-file="+keyFile,
			"--client-cert-auth", "--trusted-ca-file="+caFile, cheapHash)(s)
	})
	by := func(name string) *side.Pair {
		return pair.Over(func(target *side.Target) *side.Target { return target.Over(t, https[target.Server], ca.secrets(name)) })
	}
	steps := func(at *side.Pair, steps ...side.Step) {
		t.Helper()
		for _, s := range steps {
			at.Do(s)
		}
	}
	root, alice := by("root"), by("alice")
	steps(by("nobody"), put("a/1", "v"), get("a/1")) // auth is off
	steps(root,
		userAddBare("root"), grantRole("root", "root"), userAddBare("alice"), roleAdd("app"), permit("app", mayBoth, "a/", "a0"), grantRole("alice", "app"),
		userAdd("bob", "pw"), put("secret", "v"), grant(1, 5000), putLeased("secret", 1), authEnable(), side.Login{Name: "bob", Password: "pw", Token: "<bob>"},
		side.Login{Name: "alice", Password: "pw", Token: "<alice>"},
	)
	pairs := []*side.Pair{pair, root, alice, by("bob"), by("nobody"), by(""), by("Alice")}
	certificateCalls := func() {
		t.Helper()
		for _, name := range []string{"root", "alice", "stranger", ""} {
			compareGateway(t, pair, ca.client(name), https)
		}
		for _, at := range pairs {
			for _, token := range []string{"", "<bob>", "garbage"} { // which go before the certificate
				for _, s := range []side.Step{
					get("a/1"), put("a/1", "v"), get("secret"), userGet("alice"), userGet("bob"), userList(), status(), leases(), timeToLive(1), side.KeepAlive{IDs: []int64{1, 2}},
					authStatus(), memberList(true), hashKV(0), side.Snapshot{}, compact(1 << 40), txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a/1", "w")}}),
					side.WatchOpen{Handle: 1},
				} {
					at.Do(as(token, s))
				}
				steps(at, side.WatchCreate{Handle: 1, Request: &pb.WatchCreateRequest{Key: []byte("a/1")}}, side.WatchClose{Handle: 1})
			}
			gateway := get("a/1")
			gateway.Metadata = map[string]string{"grpcgateway-accept": "*/*"}
			at.Do(gateway)
		}
	}
	certificateCalls()
	steps(root, revokeRole("alice", "app"), userDelete("bob"))
	certificateCalls()
	steps(alice, authDisable())
	steps(root, authDisable(), put("a/1", "by root"))
	certificateCalls()
}

// client is an HTTP client with a certificate in name.
func (a *authority) client(name string) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{a.issue(a.template(name))}, RootCAs: pool},
	}}
}

// compareGateway asks the gateway by a client whose certificate does not count there.
func compareGateway(t *testing.T, pair *side.Pair, client *http.Client, https map[*proc.Server]string) {
	t.Helper()
	for _, path := range []string{"/v3/kv/range", "/v3beta/kv/range", "/v3/nothing", "/version"} {
		var answers []string
		for _, at := range pair.Targets() {
			resp, err := client.Post("https://"+https[at.Server]+path, "application/json", strings.NewReader(`{"key":"YS8x"}`))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, resp.Status+" "+resp.Header.Get("Content-Type")+" "+plain(body))
		}
		if answers[0] != answers[1] {
			t.Errorf("%s by a certificate:\n etcd   %s\n limpet %s", path, answers[0], answers[1])
		}
	}
}
