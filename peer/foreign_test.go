package peer

import (
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"

	"limpet/certs"
	"limpet/certs/certtest"
)

// given is a port whose members have certificates of ca, this one pair.
func given(t *testing.T, ca *certtest.CA, pair *certtest.Pair) func(*Config) {
	t.Helper()
	g, err := certs.Open(certs.Config{
		Members: true, Protocols: []string{"p"}, Limits: certs.Limits{Min: tls.VersionTLS12},
		Files: certs.Files{Cert: pair.CertFile, Key: pair.KeyFile, TrustedCA: ca.File},
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.TLS, c.CallTLS = g.Server(), g.Client }
}

// Members with certificates that they were given meet, under the name that is
// called.
func TestGivenCertificates(t *testing.T) {
	ca, foreign := certtest.NewCA(t, "ours"), certtest.NewCA(t, "foreign")
	here := certtest.Leaf{Names: []string{"127.0.0.1"}}
	w := newTown(t)
	a, b := w.open(0xa, given(t, ca, ca.Issue(here))), w.open(0xb, given(t, ca, ca.Issue(here)))
	if n, err := a.instance(0xb); n != 1 || err != nil {
		t.Errorf("between members: got %d, %v", n, err)
	}
	elsewhere := w.open(0xc, given(t, ca, ca.Issue(certtest.Leaf{Names: []string{"192.0.2.1"}})))
	stray := w.open(0xd, given(t, foreign, foreign.Issue(here)))
	for _, called := range []*host{elsewhere, stray} {
		if _, err := a.Who(t.Context(), called.addr()); !errors.Is(err, ErrCertificate) {
			t.Errorf("a member under another name, or of others: got %v, want ErrCertificate", err)
		}
	}
	if s := b.Stats(); s.foreign() != 0 {
		t.Errorf("b counts %v as foreign, want none", s.Foreign)
	}
}

// Whoever is no member is shut out before it could say anything, and counted
// under the reason; by members with a token and by members with certificates.
func TestStrangersAreCounted(t *testing.T) {
	ca, foreign := certtest.NewCA(t, "ours"), certtest.NewCA(t, "foreign")
	here := []string{"127.0.0.1"}
	shows := func(p *certtest.Pair) *tls.Config {
		return &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"p", "limpet-peer"},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p.TLS, nil },
		}
	}
	old := shows(ca.Issue(certtest.Leaf{Names: here}))
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	nothing := shows(ca.Issue(certtest.Leaf{}))
	nothing.GetClientCertificate = nil
	strangers := []struct {
		name  string
		tls   *tls.Config // nil: plain
		token bool        // also at a port with a token
		says  string
		why   reason
	}{
		{"plain", nil, true, "GET / HTTP/1.1\r\n\r\n", plainText},
		{"a member without TLS", nil, true, magic, plainText},
		{"nobody", nil, true, "", noGreeting},
		{"no certificate", nothing, true, magic, badHandshake},
		{"an old version", old, true, magic, badHandshake},
		{"foreign", shows(foreign.Issue(certtest.Leaf{Names: here})), true, magic, badCertificate},
		{"a client", shows(ca.Issue(certtest.Leaf{Names: here, Usages: certtest.Client})), true, magic, badCertificate},
		{"a server", shows(ca.Issue(certtest.Leaf{Names: here, Usages: certtest.Server})), true, magic, badCertificate},
		{"expired", shows(ca.Issue(certtest.Leaf{Names: here, Until: time.Now().Add(-time.Minute)})), true, magic, badCertificate},
		{"from another address", shows(ca.Issue(certtest.Leaf{Names: []string{"192.0.2.1"}})), true, magic, badCertificate},
		{"a member that says nonsense", shows(ca.Issue(certtest.Leaf{Names: here})), false, "nonsense", badGreeting},
	}
	for name, with := range map[string]func(*Config){"token": withToken(t, oneToken), "certificates": given(t, ca, ca.Issue(certtest.Leaf{Names: here}))} {
		for _, s := range strangers {
			if name == "token" && !s.token {
				continue
			}
			t.Run(name+"/"+s.name, func(t *testing.T) {
				h := newTown(t).open(0xb, with, func(c *Config) {
					c.Admit = func(Hello) *Refusal { t.Error("looked at"); return nil }
				})
				c := stranger(t, h.addr())
				if s.tls != nil {
					c = tls.Client(c, s.tls)
				}
				_, _ = io.WriteString(c, s.says) // whether it can be said depends on the version of TLS
				if s.says == "" {
					_ = c.Close()
				}
				if _, err := io.ReadAll(c); err != nil && isTimeout(err) {
					t.Error("the connection stays open")
				}
				until(t, "it to be counted", func() bool { return h.Stats().foreign() == 1 })
				if n := h.Stats().Foreign; n[s.why] != 1 {
					t.Errorf("counted as %v, want one as %s", n, Reasons[s.why])
				}
				if name == "certificates" && h.log.lines("token") > 0 {
					t.Errorf("where there is no token, the log talks of one:\n%s", h.log)
				}
			})
		}
	}
}
