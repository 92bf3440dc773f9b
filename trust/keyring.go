package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
)

// ErrNotMember: the certificate shown is not that of a member of this cluster.
var ErrNotMember = errors.New("trust: not a member's certificate: the other side has another token")

// Keyring is the tokens that a member holds: the one in use, whose certificate
// it shows, and, while a rotation lasts, others that it trusts as well. All
// methods may be called concurrently; TLS made of it follows its changes.
type Keyring struct{ now atomic.Pointer[ring] }

// ring is a state of a keyring; it does not change.
type ring struct {
	tokens []Token        // the one in use first
	cas    []*authority   // of the tokens, in their order
	roots  *x509.CertPool // of cas
	// chain goes behind each certificate of the first authority: for each of the
	// others one in which that vouches for the first.
	chain [][]byte
}

// NewKeyring returns a keyring of the token in use and others that are trusted.
func NewKeyring(inUse Token, others ...Token) (*Keyring, error) {
	k := new(Keyring)
	return k, k.Set(inUse, others...)
}

// Set replaces the tokens. On error nothing has changed.
func (k *Keyring) Set(inUse Token, others ...Token) error {
	r := &ring{tokens: append([]Token{inUse}, others...), roots: x509.NewCertPool()}
	for _, t := range r.tokens {
		ca, err := t.authority()
		if err != nil {
			return err
		}
		r.cas = append(r.cas, ca)
		r.roots.AddCert(ca.cert)
	}
	for _, ca := range r.cas[1:] {
		der, err := ca.vouch(r.cas[0])
		if err != nil {
			return err
		}
		r.chain = append(r.chain, der)
	}
	k.now.Store(r)
	return nil
}

// InUse is the token whose certificates are shown.
func (k *Keyring) InUse() Token { return k.now.Load().tokens[0] }

// Tokens lists all, the one in use first. The list must not be changed.
func (k *Keyring) Tokens() []Token { return k.now.Load().tokens }

// Fingerprints names all tokens, the one in use first.
func (k *Keyring) Fingerprints() []string {
	var out []string
	for _, t := range k.Tokens() {
		out = append(out, t.Fingerprint())
	}
	return out
}

// CAs is a new pool of the authorities of all tokens: whom to accept.
func (k *Keyring) CAs() *x509.CertPool { return k.now.Load().roots.Clone() }

// Chain is what to send behind a certificate of the token in use, in DER, so
// that those accept it, too, who know only another of the tokens.
func (k *Keyring) Chain() [][]byte { return k.now.Load().chain }

// MemberTLS is TLS between members, for both ends, as member id. Each end
// proves to be a member; who it is, the greeting tells.
func (k *Keyring) MemberTLS(id uint64) *tls.Config {
	m := &shown{keyring: k, id: id}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		NextProtos:           []string{"limpet-peer"},
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.certificate() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.certificate() },
		ClientAuth:           tls.RequireAnyClientCert,
		// Names and dates mean nothing between members; verify does the work.
		InsecureSkipVerify:     true,
		VerifyConnection:       k.verify,
		SessionTicketsDisabled: true, // every connection is verified anew
	}
}

// shown is the certificate that a member shows, made anew when the token in use
// is another one.
type shown struct {
	keyring *Keyring
	id      uint64

	mu   sync.Mutex // guards of and cert
	of   *ring
	cert *tls.Certificate
}

func (m *shown) certificate() (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.keyring.now.Load()
	if m.of == r {
		return m.cert, nil
	}
	cert, err := r.cas[0].memberCertificate(m.id)
	if err != nil {
		return nil, err
	}
	cert.Certificate = append(cert.Certificate, r.chain...)
	m.of, m.cert = r, cert
	return cert, nil
}

// verify runs at the end of each handshake, on both sides, and may run again
// later: a token may have been dropped. Its error is of the type that crypto/tls
// has for this.
func (k *Keyring) verify(s tls.ConnectionState) error {
	if err := k.now.Load().judge(s.PeerCertificates); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
	}
	return nil
}

func (r *ring) judge(shown []*x509.Certificate) error {
	if len(shown) == 0 {
		return ErrNotMember
	}
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	leaf := shown[0]
	_, err := leaf.Verify(x509.VerifyOptions{Roots: r.roots, Intermediates: between, CurrentTime: validNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return ErrNotMember
	}
	for _, u := range leaf.URIs {
		if strings.EqualFold(u.Scheme, memberScheme) {
			return nil
		}
	}
	return ErrNotMember
}
