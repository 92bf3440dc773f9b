package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
)

var (
	errNotAllowed = errors.New("certs: client certificate authentication failed: neither its common name nor a host name of it is allowed")
	errNotMember  = errors.New("certs: not a member's certificate: " + errNoMembers.Error())
)

// Config says what a Guard shows and whom it accepts.
type Config struct {
	Files  Files
	Limits Limits
	// Protocols are those of ALPN, the preferred one first.
	Protocols []string
	// Members makes both ends members: a Guard that is for calls, too, and has
	// no say in whether the other end shows a certificate.
	Members bool
	// ClientAuth has clients show a certificate. Files.TrustedCA implies it, as
	// in etcd.
	ClientAuth bool
	// AllowedCNs and AllowedHostnames, if there are any, limit whom the
	// authorities vouch for: one must be the certificate's.
	AllowedCNs, AllowedHostnames []string
	// SkipCallerSAN lets members call from addresses that are not in their
	// certificates.
	SkipCallerSAN bool
	// Issued, if set, is asked instead of Files.Cert and Files.Key, for the
	// address at which the caller found us.
	Issued func(local net.Addr) (*tls.Certificate, error)
	// Authority, if set, is who is accepted without Files.TrustedCA.
	Authority func() *x509.CertPool
	Logger    *slog.Logger
}

// Guard makes TLS of files that may change. All methods may be called
// concurrently.
type Guard struct {
	cfg     Config
	own     *watched[*tls.Certificate] // nil: issued
	caller  *watched[*tls.Certificate]
	trusted *watched[*x509.CertPool] // nil: Authority, or the system's
	revoked *watched[map[string]bool]
}

// Open reads all files.
func Open(cfg Config) (*Guard, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guard{cfg: cfg}
	f := cfg.Files
	var errs [4]error
	if cfg.Issued == nil {
		g.own, errs[0] = g.watchPair(f.Cert, f.Key)
	}
	g.caller = g.own
	if f.CallerCert != "" {
		g.caller, errs[1] = g.watchPair(f.CallerCert, f.CallerKey)
	}
	if f.TrustedCA != "" {
		g.trusted, errs[2] = watch(cfg.Logger, func() (*x509.CertPool, error) { return readBundle(f.TrustedCA) }, f.TrustedCA)
	}
	if f.CRL != "" {
		g.revoked, errs[3] = watch(cfg.Logger, func() (map[string]bool, error) { return readCRL(f.CRL) }, f.CRL)
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Reread reads all files now, and not only when they have changed and the next
// handshake comes. Those that cannot be read stay in force as they were; the error
// says which.
func (g *Guard) Reread() error {
	var errs []error
	if g.own != nil {
		errs = append(errs, g.own.reread())
	}
	if g.caller != g.own {
		errs = append(errs, g.caller.reread())
	}
	if g.trusted != nil {
		errs = append(errs, g.trusted.reread())
	}
	if g.revoked != nil {
		errs = append(errs, g.revoked.reread())
	}
	return errors.Join(errs...)
}

func (g *Guard) watchPair(cert, key string) (*watched[*tls.Certificate], error) {
	return watch(g.cfg.Logger, func() (*tls.Certificate, error) {
		pair, err := readPair(cert, key)
		if err == nil && g.cfg.Members && !servesBothEnds(pair.Leaf) {
			return nil, fmt.Errorf("%s: %w", cert, errNoMembers)
		}
		return pair, err
	}, cert, key)
}

// Server is TLS for listeners. Each handshake sees the files as they are.
func (g *Guard) Server() *tls.Config {
	return &tls.Config{MinVersion: g.cfg.Limits.Min, GetConfigForClient: g.serverConfig}
}

func (g *Guard) serverConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	pair, err := g.shown(hello.Conn.LocalAddr())
	if err != nil {
		return nil, err
	}
	cfg := g.config(pair)
	cfg.SessionTicketsDisabled = true // every connection is judged anew
	if g.cfg.Members || g.cfg.ClientAuth || g.trusted != nil {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, g.roots()
	}
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		err := g.judge(s)
		if err == nil && g.cfg.Members && !g.cfg.SkipCallerSAN {
			err = callsFrom(hello.Context(), s.PeerCertificates[0], hello.Conn.RemoteAddr())
		}
		return refusal(s, err)
	}
	return cfg, nil
}

func (g *Guard) shown(local net.Addr) (*tls.Certificate, error) {
	if g.own == nil {
		return g.cfg.Issued(local)
	}
	return g.own.get(), nil
}

// Client is TLS for one call to a member at host, a name or an address.
func (g *Guard) Client(host string) *tls.Config {
	pair := g.caller.get()
	cfg := g.config(pair)
	cfg.ServerName, cfg.RootCAs = host, g.roots()
	// Shown whatever authorities the other end names: it says more clearly what
	// it does not like than that there was none.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	cfg.VerifyConnection = func(s tls.ConnectionState) error { return refusal(s, g.judge(s)) }
	return cfg
}

func (g *Guard) config(pair *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: g.cfg.Limits.Min, MaxVersion: g.cfg.Limits.Max, CipherSuites: g.cfg.Limits.Ciphers,
		NextProtos: g.cfg.Protocols, Certificates: []tls.Certificate{*pair},
	}
}

// roots are who is accepted; nil: the system's.
func (g *Guard) roots() *x509.CertPool {
	switch {
	case g.trusted != nil:
		return g.trusted.get()
	case g.cfg.Authority != nil:
		return g.cfg.Authority()
	}
	return nil
}

// judge looks at what crypto/tls does not know of. It runs at the end of each
// handshake, when authorities, dates, and the name that was called are right.
func (g *Guard) judge(s tls.ConnectionState) error {
	if g.revoked != nil {
		revoked := g.revoked.get()
		for _, c := range s.PeerCertificates {
			if serial := c.SerialNumber.Text(16); revoked[serial] {
				return fmt.Errorf("certs: certificate serial %s revoked", serial)
			}
		}
	}
	if len(s.VerifiedChains) == 0 {
		return nil // a client that need not show one
	}
	leaf := s.PeerCertificates[0]
	if g.cfg.Members && !servesBothEnds(leaf) {
		return errNotMember
	}
	if len(g.cfg.AllowedCNs)+len(g.cfg.AllowedHostnames) == 0 || slices.Contains(g.cfg.AllowedCNs, leaf.Subject.CommonName) ||
		slices.ContainsFunc(g.cfg.AllowedHostnames, func(h string) bool { return leaf.VerifyHostname(h) == nil }) {
		return nil
	}
	return errNotAllowed
}

// refusal gives err the type that crypto/tls has for this.
func refusal(s tls.ConnectionState, err error) error {
	if err == nil {
		return nil
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
}

// callsFrom makes sure that a caller's certificate, if it names addresses or
// hosts, names the one that it calls from (etcd's transport.checkCertSAN).
func callsFrom(ctx context.Context, c *x509.Certificate, remote net.Addr) error {
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		return err
	}
	if len(c.IPAddresses)+len(c.DNSNames) == 0 || c.VerifyHostname(host) == nil {
		return nil
	}
	if len(c.DNSNames) > 0 {
		for _, name := range lookup(net.DefaultResolver.LookupAddr(ctx, host)) {
			if c.VerifyHostname(name) == nil {
				return nil
			}
		}
	}
	for _, name := range c.DNSNames {
		if slices.Contains(lookup(net.DefaultResolver.LookupHost(ctx, name)), host) {
			return nil
		}
	}
	return fmt.Errorf("certs: %q does not match any of DNSNames %q or addresses %v of the caller's certificate", host, c.DNSNames, c.IPAddresses)
}

// lookup takes what DNS knows; without an answer it knows nothing.
func lookup(found []string, err error) []string {
	if err != nil {
		return nil
	}
	return found
}
