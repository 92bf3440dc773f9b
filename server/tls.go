package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"limpet/certs"
	"limpet/trust"
)

// SideTLS is what an operator says of TLS on one side: towards clients, or
// between members.
type SideTLS struct {
	certs.Files
	ClientAuth       bool // clients must show a certificate; members always do
	AllowedCNs       []string
	AllowedHostnames []string
	SkipCallerSAN    bool // members may call from any address
}

// restricts reports whether something is said of who is accepted that needs
// certificates to be shown.
func (t *SideTLS) restricts() bool {
	return t.CRL != "" || len(t.AllowedCNs)+len(t.AllowedHostnames) > 0
}

// checkTLS finds what does not go together. Files are read later.
func (c *Config) checkTLS() error {
	if _, err := c.limits(); err != nil {
		return err
	}
	for _, pair := range []struct{ cert, certFile, key, keyFile string }{
		{"cert-file", c.ClientTLS.Cert, "key-file", c.ClientTLS.Key},
		{"peer-cert-file", c.PeerTLS.Cert, "peer-key-file", c.PeerTLS.Key},
		{"peer-client-cert-file", c.PeerTLS.CallerCert, "peer-client-key-file", c.PeerTLS.CallerKey},
	} {
		if (pair.certFile == "") != (pair.keyFile == "") {
			return fmt.Errorf("--%s and --%s must both be present: got %q and %q", pair.cert, pair.key, pair.certFile, pair.keyFile)
		}
	}
	switch {
	case len(c.ClientTLS.AllowedCNs) > 0 && len(c.ClientTLS.AllowedHostnames) > 0:
		return errors.New("--client-cert-allowed-cn and --client-cert-allowed-hostname are both given; give one")
	case len(c.PeerTLS.AllowedCNs) > 0 && len(c.PeerTLS.AllowedHostnames) > 0:
		return errors.New("--peer-cert-allowed-cn and --peer-cert-allowed-hostname are both given; give one")
	case c.PeerTLS.CallerCert != "" && c.PeerTLS.Cert == "":
		return errors.New("--peer-client-cert-file is for calls, and --peer-cert-file for being called: give both, or the second alone")
	case c.ClientTLS.Cert != "" || c.AutoTLS:
		return nil
	}
	if u := firstSecure(slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs)); u != "" {
		return fmt.Errorf("TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme; --auto-tls makes them", u)
	}
	if u := firstSecure(c.ListenMetricsURLs); u != "" {
		return fmt.Errorf("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url %s; --auto-tls makes them", u)
	}
	return nil
}

func (c *Config) limits() (certs.Limits, error) {
	l, err := certs.ParseLimits(c.TLSMinVersion, c.TLSMaxVersion, c.CipherSuites)
	if err != nil {
		return l, fmt.Errorf("%w; see --tls-min-version, --tls-max-version and --cipher-suites", err)
	}
	return l, nil
}

// firstSecure is the first URL that speaks TLS; empty if none does.
func firstSecure(urls []string) string {
	i := slices.IndexFunc(urls, func(u string) bool { return strings.HasPrefix(u, "https:") || strings.HasPrefix(u, "unixs:") })
	if i < 0 {
		return ""
	}
	return urls[i]
}

// clientGuard makes TLS for listeners of clients and of metrics; nil if no URL of
// theirs needs it.
func (c *Config) clientGuard(log *slog.Logger) (*certs.Guard, error) {
	if firstSecure(slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs)) == "" {
		return nil, nil
	}
	limits, _ := c.limits() // validated
	cfg := certs.Config{
		Files: c.ClientTLS.Files, Limits: limits, ClientAuth: c.ClientTLS.ClientAuth,
		AllowedCNs: c.ClientTLS.AllowedCNs, AllowedHostnames: c.ClientTLS.AllowedHostnames,
		// HTTP/2 is gRPC's alone: who offers HTTP/1 as well (curl, Prometheus) comes
		// for what HTTP/1 serves, and gRPC clients offer nothing but h2.
		Protocols: []string{"http/1.1", "h2"}, Logger: log,
	}
	if c.ClientTLS.Cert == "" {
		issuer := &issuer{ring: c.authority, names: c.serverNames()}
		cfg.Issued, cfg.Authority = issuer.certificate, c.authority.CAs
	}
	g, err := certs.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("TLS for clients: %w", err)
	}
	return g, nil
}

// serverNames are those under which clients may find this member, its own
// addresses apart.
func (c *Config) serverNames() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	for _, s := range slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs, c.AdvertiseClientURLs) {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			continue // validated before
		case isUnix(u):
			names = append(names, path.Base(socketFile(u))) // what etcd's client looks for
			continue
		case u.Hostname() == "":
			continue
		}
		if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsUnspecified() {
			names = append(names, u.Hostname())
		}
	}
	return names
}

// issuer makes the certificate that --auto-tls shows, and another one when this
// machine has a new address, or the cluster other tokens.
type issuer struct {
	ring  *trust.Keyring
	names []string

	mu   sync.Mutex // guards pair and of
	pair *tls.Certificate
	of   []string // the tokens, when it was made
}

// certificate is one that names local, at which a client found this machine.
func (i *issuer) certificate(local net.Addr) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	tcp, _ := local.(*net.TCPAddr)
	tokens := i.ring.Fingerprints()
	if i.pair != nil && slices.Equal(i.of, tokens) && (tcp == nil || slices.ContainsFunc(i.pair.Leaf.IPAddresses, tcp.IP.Equal)) {
		return i.pair, nil
	}
	names := slices.Clone(i.names)
	if tcp != nil {
		names = append(names, tcp.IP.String())
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			names = append(names, n.IP.String())
		}
	}
	slices.Sort(names)
	cert, key, err := i.ring.InUse().IssueServer("limpet", slices.Compact(names))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	// Clients that know only the authority of an older token accept it, too.
	pair.Certificate = append(pair.Certificate, i.ring.Chain()...)
	i.pair, i.of = &pair, tokens
	return i.pair, nil
}

// peerGuard keeps the peer port with the certificates that members were given;
// nil if members speak plainly, or with certificates made of the token.
func (c *Config) peerGuard(log *slog.Logger) (*certs.Guard, error) {
	if c.PeerTLS.Cert == "" || c.held == nil && firstSecure(c.ListenPeerURLs) == "" {
		return nil, nil
	}
	return c.openPeerGuard(log)
}

func (c *Config) openPeerGuard(log *slog.Logger) (*certs.Guard, error) {
	limits, _ := c.limits() // validated
	g, err := certs.Open(certs.Config{
		Members: true, Files: c.PeerTLS.Files, Limits: limits, Protocols: []string{"limpet-peer"},
		AllowedCNs: c.PeerTLS.AllowedCNs, AllowedHostnames: c.PeerTLS.AllowedHostnames,
		SkipCallerSAN: c.PeerTLS.SkipCallerSAN, Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("TLS between members: %w", err)
	}
	return g, nil
}

// tellOfTLS logs what was said in vain, and what it means that clients are
// served without TLS.
func (s *Server) tellOfTLS() {
	c := &s.cfg
	given := c.ClientTLS.Cert != "" || c.AutoTLS || c.ClientTLS.ClientAuth
	switch {
	case c.ClientTLS.Cert != "" && c.AutoTLS:
		s.log.Warn("--auto-tls has no effect beside --cert-file")
	case given && firstSecure(slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs)) == "":
		s.log.Warn("TLS for clients has no effect: no URL to listen on is https or unixs")
	}
	if c.ClientTLS.restricts() && !c.ClientTLS.ClientAuth && c.ClientTLS.TrustedCA == "" {
		s.log.Warn("limits on certificates of clients have no effect: clients are asked for none; give --client-cert-auth")
	}
	if c.PeerTLS.Cert != "" && s.given == nil {
		s.log.Warn("--peer-cert-file has no effect: no URL of --listen-peer-urls is https")
	}
	if s.given != nil && c.PeerTLS.TrustedCA == "" {
		const means = "every authority that this system trusts can make members: give --peer-trusted-ca-file"
		s.notices.Stand("peers of any authority", means)
		s.log.Warn(means)
	}
	if c.PeerAutoTLS && c.held == nil && s.given == nil {
		s.log.Warn("--peer-auto-tls has no effect: no URL of --listen-peer-urls is https")
	}
	for _, text := range slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs) {
		u, err := url.Parse(text)
		if err != nil || isUnix(u) || u.Scheme != "http" {
			continue
		}
		if given {
			s.log.Warn("clients need no TLS at this URL, which is http", "url", text)
		}
		if onThisMachine(u.Host) {
			continue
		}
		const means = "clients are served without TLS beyond this machine: whoever is on the network can read and change everything; give --cert-file and --key-file, or --auto-tls, and an https URL"
		s.notices.Stand("plain clients "+text, means, "url", text)
		s.log.Warn(means, "url", text)
	}
}
