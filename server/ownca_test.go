package server

import (
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A member that speaks plainly with the others, as etcd's manifests have it, and
// has no token makes its certificates for clients itself, of an authority that
// stays.
func TestAutoTLSWithoutToken(t *testing.T) {
	cfg := newConfig(t)
	cfg.AutoTLS, cfg.PeerAutoTLS, cfg.ClientTLS.ClientAuth = true, true, true
	cfg.ListenClientURLs = []string{secure(cfg.ListenClientURLs[0])}
	cfg.AdvertiseClientURLs = cfg.ListenClientURLs
	file := filepath.Join(cfg.DataDir, ownCAName)
	var ca []byte
	for range 2 {
		m := start(t, cfg)
		authority, err := StoredAuthority(cfg.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		if was := ca; was == nil {
			ca = authorityOf(t, authority)
		} else if got := authorityOf(t, authority); string(got) != string(was) {
			t.Error("a restart has made another authority")
		}
		cert, key, err := authority.IssueClient("alice", nil)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name  string
			certs []tls.Certificate
			ok    bool
		}{{"with a certificate", []tls.Certificate{pair}, true}, {"without", nil, false}} {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: poolOf(t, authority), Certificates: c.certs}}}
			resp, err := client.Get(cfg.ListenClientURLs[0] + "/version")
			if err == nil {
				_ = resp.Body.Close()
			}
			if (err == nil) != c.ok {
				t.Errorf("a client %s: got %v, want success: %v", c.name, err, c.ok)
			}
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the secret: got %v, %v, want mode 0600", info, err)
		}
		if _, err := StoredToken(cfg.DataDir); err == nil {
			t.Error("the secret passes for the cluster's token")
		}
		m.stop()
	}
	if err := os.WriteFile(file, []byte("half a sec"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cfg.readOwnCA(); err == nil || !strings.Contains(err.Error(), file+" is damaged: remove it") {
		t.Errorf("a damaged secret: got %v", err)
	}
	if _, err := StoredAuthority(t.TempDir()); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("no data directory: got %v, want a sentence", err)
	}
}
