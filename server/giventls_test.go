package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"limpet/certs/certtest"
)

// givenTLS are three configurations of a static cluster with certificates of
// ca, as kubeadm starts etcd.
func givenTLS(t *testing.T, ca *certtest.CA, set func(*Config)) (cfgs [3]Config) {
	t.Helper()
	var founders []string
	for i := range cfgs {
		cfgs[i] = newConfig(t)
		c := &cfgs[i]
		pair := ca.Issue(certtest.Leaf{CN: fmt.Sprint("m", i+1), Names: loopback})
		c.Name, c.ListenPeerURLs = fmt.Sprint("m", i+1), []string{secure(c.ListenPeerURLs[0])}
		c.AdvertisePeerURLs = c.ListenPeerURLs
		c.PeerTLS.Cert, c.PeerTLS.Key, c.PeerTLS.TrustedCA = pair.CertFile, pair.KeyFile, ca.File
		set(c)
		founders = append(founders, c.Name+"="+c.AdvertisePeerURLs[0])
	}
	for i := range cfgs {
		cfgs[i].InitialCluster = strings.Join(founders, ",")
		if err := cfgs[i].Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return cfgs
}

// Members with certificates that they were given make a cluster, with a token
// beside or without. New files serve those who come later, and clients of the
// same authority are shut out of the peer port.
func TestMembersWithGivenCertificates(t *testing.T) {
	for name, token := range map[string]string{"alone": "", "beside a token": oneToken} {
		t.Run(name, func(t *testing.T) {
			ca := certtest.NewCA(t, "ours")
			cfgs := givenTLS(t, ca, func(c *Config) {
				if c.Token = token; token != "" {
					c.GossipAddress = strings.TrimPrefix(freeURL(t), "http://")
				}
				c.PeerTLS.AllowedCNs = []string{"m1", "m2", "m3", "renewed"}
			})
			members := startAll(t, cfgs[:]...)
			members[0].put("k", "v")
			for _, m := range members {
				m.wantValue("k", "v")
			}
			at := strings.TrimPrefix(cfgs[0].ListenPeerURLs[0], "https://")
			client := ca.Issue(certtest.Leaf{CN: "m1", Names: loopback, Usages: certtest.Client})
			if c, err := tls.Dial("tcp", at, visitor(ca.Cert, &client.TLS)); err == nil {
				_, err = io.ReadAll(c)
				_ = c.Close()
				if err == nil {
					t.Error("a client's certificate is not refused")
				}
			}
			const counted = "\nlimpet_peer_rejected_connections_total{reason=\"certificate\"} 1\n"
			eventually(t, "the client to be counted", func() bool {
				_, text := httpGet(t, cfgs[0].ListenClientURLs[0]+"/metrics")
				return strings.Contains(text, counted)
			})
			// The third member gets a new certificate, and comes back with it.
			renewed := ca.Issue(certtest.Leaf{CN: "renewed", Names: loopback})
			renewed.Copy(t, &certtest.Pair{CertFile: cfgs[2].PeerTLS.Cert, KeyFile: cfgs[2].PeerTLS.Key})
			seen, err := tls.Dial("tcp", strings.TrimPrefix(cfgs[2].ListenPeerURLs[0], "https://"), visitor(ca.Cert, &renewed.TLS))
			if err != nil {
				t.Fatal(err)
			}
			if cn := seen.ConnectionState().PeerCertificates[0].Subject.CommonName; cn != "renewed" {
				t.Errorf("m3 shows the certificate of %s, want the new one", cn)
			}
			_ = seen.Close()
			members[2].stop()
			members[2] = start(t, cfgs[2])
			members[2].put("k", "w")
			for _, m := range members {
				m.wantValue("k", "w")
			}
		})
	}
}

// Survivors of a lost quorum are asked with the certificates, too.
func TestRecoveryWithGivenCertificates(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	cfgs := givenTLS(t, ca, func(*Config) {})
	members := startAll(t, cfgs[:]...)
	members[0].put("k", "v")
	members[0].stop()
	members[2].stop()
	survey := func(set func(*Config)) (*Survey, error) {
		cfg := DefaultConfig()
		cfg.DataDir = cfgs[0].DataDir
		set(&cfg)
		r, err := OpenRecovery(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, err
		}
		defer func() { _ = r.Close() }()
		return r.Survey(t.Context())
	}
	if _, err := survey(func(*Config) {}); err == nil || !strings.Contains(err.Error(), "--peer-cert-file") {
		t.Errorf("without certificates: %v, want that they are needed", err)
	}
	found, err := survey(func(c *Config) { c.PeerTLS = cfgs[0].PeerTLS })
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]bool{}
	for _, m := range found.Members {
		answers[m.Name] = m.Answers
	}
	if len(answers) != 3 || !answers["m1"] || !answers["m2"] || answers["m3"] {
		t.Errorf("who answers: %v, want m1, here, and m2", answers)
	}
}

// A member of another authority is not let in, and both sides say why.
func TestMemberOfAnotherAuthority(t *testing.T) {
	ca, foreign := certtest.NewCA(t, "ours"), certtest.NewCA(t, "foreign")
	cfgs := givenTLS(t, ca, func(*Config) {})
	stray := foreign.Issue(certtest.Leaf{Names: loopback})
	cfgs[2].PeerTLS.Cert, cfgs[2].PeerTLS.Key, cfgs[2].PeerTLS.TrustedCA = stray.CertFile, stray.KeyFile, foreign.File
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, cfg := range cfgs {
		// Owner: this test; ends when it cancels ctx.
		wg.Go(func() {
			if s, err := Start(ctx, cfg, slog.New(slog.DiscardHandler)); err == nil {
				t.Errorf("%s is in a cluster", cfg.Name)
				_ = s.Stop()
			}
		})
	}
	for i, cfg := range cfgs {
		eventually(t, cfg.Name+" to tell of certificates", func() bool {
			text, err := askHTTP(cfg.ListenClientURLs[0], "/limpet/v1/cluster", nil)
			return err == nil && strings.Contains(text, "do not accept each other's certificates") && (i != 2 || !strings.Contains(text, `"leader"`))
		})
	}
	cancel()
	wg.Wait()
}

// Without authorities of their own, members would take whoever the system's
// authorities vouch for: that is said as long as they run.
func TestMembersOfAnyAuthority(t *testing.T) {
	cfg := givenTLS(t, certtest.NewCA(t, "ours"), func(c *Config) { c.PeerTLS.TrustedCA = "" })[0]
	cfg.InitialCluster = cfg.Name + "=" + cfg.AdvertisePeerURLs[0]
	m := start(t, cfg)
	if n := m.local.Report(t.Context()).Notices; len(n) != 1 || !strings.Contains(n[0].Text, "give --peer-trusted-ca-file") {
		t.Errorf("got the notices %v, want one about --peer-trusted-ca-file", n)
	}
}
