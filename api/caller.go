package api

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"limpet/auth"
)

// gatewayMark is in the metadata of what a JSON gateway passes on.
const gatewayMark = "grpcgateway-accept"

// gatewayNetwork is that of connections within the process, net.Pipe's.
const gatewayNetwork = "pipe"

// RemoteKey is the metadata by which the gateway says where a request comes from;
// its last value counts.
const RemoteKey = "limpet-remote"

func (s *Server) rules() *auth.Rules { return s.cfg.Node.Rules() }

// caller finds out who asks: nobody while nothing is checked, or if neither a
// token nor a certificate is shown. A token that is not valid is an error.
func (s *Server) caller(ctx context.Context) (auth.Caller, error) {
	rules := s.rules()
	if !rules.Enabled() {
		return auth.Caller{}, nil
	}
	token := metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameGRPC)
	if len(token) == 0 {
		token = metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameSwagger)
	}
	if len(token) > 0 {
		return s.tokenCaller(ctx, token[0], rules)
	}
	// What a gateway passes on comes over a connection of the gateway's own.
	p, _ := peer.FromContext(ctx)
	if p == nil || len(metadata.ValueFromIncomingContext(ctx, gatewayMark)) > 0 {
		return auth.Caller{}, nil
	}
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	return s.certCaller(&info.State, rules), nil
}

// tokenCaller is whose token it is.
func (s *Server) tokenCaller(ctx context.Context, token string, rules *auth.Rules) (auth.Caller, error) {
	// A token may name an entry of the log that this member has yet to apply, or
	// one that never comes.
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout())
	defer cancel()
	return s.cfg.Login.Caller(ctx, strings.TrimPrefix(token, "Bearer "), rules)
}

// certCaller is who the client's certificate names.
func (s *Server) certCaller(state *tls.ConnectionState, rules *auth.Rules) auth.Caller {
	if state == nil || !s.cfg.CertUsers {
		return auth.Caller{}
	}
	for _, chain := range state.VerifiedChains {
		if len(chain) > 0 {
			return auth.Caller{User: chain[0].Subject.CommonName, Revision: rules.Revision()}
		}
	}
	return auth.Caller{}
}

// httpCaller is caller for a request over HTTP, whose header Authorization has
// the token.
func (s *Server) httpCaller(r *http.Request, rules *auth.Rules) (auth.Caller, error) {
	if token := r.Header.Get("Authorization"); token != "" {
		return s.tokenCaller(r.Context(), token, rules)
	}
	return s.certCaller(r.TLS, rules), nil
}

// BasicCaller is who sends r to etcd's v2 API: whose name and password it shows
// (header Authorization) or else whom a certificate names. Nobody if it shows
// neither, or while nothing is checked. What it shows may be wrong: then the error
// is one of package auth, or login.ErrTooMany.
func (s *Server) BasicCaller(r *http.Request) (auth.Caller, error) {
	rules := s.rules()
	if !rules.Enabled() {
		return auth.Caller{}, nil
	}
	if r.Header.Get("Authorization") == "" {
		c := s.certCaller(r.TLS, rules)
		if rules.User(c.User) == nil {
			return auth.Caller{}, nil // as etcd; it may be the certificate of a program that v2 does not know
		}
		return c, nil
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return auth.Caller{}, auth.ErrFailed
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.RequestTimeout()) // others may be before it
	defer cancel()
	from := hostOf(r.RemoteAddr)
	revision, err := s.cfg.Login.Passwords.CheckOften(ctx, rules, from, name, password)
	if err != nil {
		s.tellOfFailure(err, rules, name, from)
		return auth.Caller{}, err
	}
	return auth.Caller{User: name, Revision: revision}, nil
}

// tellOfFailure logs that somebody is not who he says. A name that is nobody's may
// be a password that was typed in its place, and is not told.
func (s *Server) tellOfFailure(err error, rules *auth.Rules, name, from string) {
	if !errors.Is(err, auth.ErrFailed) {
		return
	}
	if rules.User(name) == nil {
		name = "(nobody's name)"
	}
	s.log.Warn("a login failed", "user", name, "remote", from)
}

// CertUserHTTP reports whether the client's certificate names a user to gRPC,
// while users count.
func (s *Server) CertUserHTTP(r *http.Request) bool {
	rules := s.rules()
	return rules.Enabled() && s.certCaller(r.TLS, rules).User != ""
}

// KnownHTTP reports whether somebody is known to send r, or nothing is checked.
func (s *Server) KnownHTTP(r *http.Request) bool {
	rules := s.rules()
	if !rules.Enabled() {
		return true
	}
	c, err := s.httpCaller(r, rules)
	return err == nil && rules.Known(c) == nil
}

// MayReadHTTP returns an error of package auth or login unless who sends r may read
// the keys from key to end, as a range has them. still returns an error once the
// rules have changed.
func (s *Server) MayReadHTTP(r *http.Request, key, end []byte) (still func() error, err error) {
	var c auth.Caller
	rules := s.rules()
	if rules.Enabled() {
		if c, err = s.httpCaller(r, rules); err != nil {
			return nil, err
		}
	}
	still = func() error {
		if c.Revision != 0 && c.Revision != s.rules().Revision() {
			return auth.ErrOldRevision
		}
		return nil
	}
	return still, s.rules().Read(c, key, end)
}

// RootHTTP reports whether root is known to send r; not while nothing is checked.
func (s *Server) RootHTTP(r *http.Request) bool {
	rules := s.rules()
	if !rules.Enabled() {
		return false
	}
	c, err := s.httpCaller(r, rules)
	return err == nil && rules.Admin(c) == nil
}

// known returns an error if nobody is known to ask.
func (s *Server) known(ctx context.Context) error {
	c, err := s.caller(ctx)
	if err == nil {
		err = s.rules().Known(c)
	}
	return wireError(err)
}

// admin returns an error unless it is root who asks.
func (s *Server) admin(ctx context.Context) error {
	c, err := s.caller(ctx)
	if err == nil {
		err = s.rules().Admin(c)
	}
	return wireError(err)
}

// guarded reads, if the caller may. Were the rules changed meanwhile, it is not
// certain that the caller still may.
func guarded[Resp any](ctx context.Context, s *Server, may func(*auth.Rules, auth.Caller) error, read func() (Resp, error)) (Resp, error) {
	var none Resp
	c, err := s.caller(ctx)
	if err == nil {
		err = may(s.rules(), c)
	}
	if err != nil {
		return none, err
	}
	resp, err := read()
	if c.Revision != 0 && c.Revision != s.rules().Revision() {
		return none, auth.ErrOldRevision
	}
	return resp, err
}

// overLease returns an error unless the caller may do something to all keys of a
// lease, as may tells.
func overLease(ctx context.Context, s *Server, lease int64, may func(*auth.Rules, auth.Caller, []string) error) error {
	rules := s.rules()
	if !rules.Enabled() {
		return nil
	}
	c, err := s.caller(ctx)
	if err == nil {
		err = rules.Known(c)
	}
	if err != nil || rules.Admin(c) == nil {
		return wireError(err)
	}
	err = may(rules, c, s.cfg.Store.LeaseKeys(lease))
	if err == nil && rules.Revision() != s.rules().Revision() {
		err = auth.ErrOldRevision
	}
	return wireError(err)
}

// host is where a request comes from. What the gateway passes on it has marked
// itself: what else a client says of that (X-Forwarded-For) means nothing.
func host(ctx context.Context) string {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return ""
	}
	if p.Addr.Network() == gatewayNetwork {
		from := metadata.ValueFromIncomingContext(ctx, RemoteKey)
		if len(from) == 0 {
			return ""
		}
		return hostOf(from[len(from)-1])
	}
	return hostOf(p.Addr.String())
}

// hostOf is an address without its port; one without stays as it is.
func hostOf(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}
