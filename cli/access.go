package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"limpet/server"
)

// operator is the common name of whoever comes with the token: that is trusted
// with everything.
const operator = "root"

// access is how a command reaches members.
type access struct {
	endpoints      []string
	tls            *tls.Config   // nil: nothing was said of TLS
	user, password string        // empty: nobody
	timeout        time.Duration // of one answer
}

// accessFlags are etcdctl's, and --data-dir instead of files.
func accessFlags(timeout time.Duration) []cli.Flag {
	ctl := func(name string) []string {
		n := strings.ToUpper(name)
		return []string{"LIMPET_" + n, "ETCDCTL_" + n}
	}
	return []cli.Flag{
		&cli.StringFlag{Name: "endpoints", Usage: "client URLs of members; comma-separated", Value: "127.0.0.1:2379", EnvVars: ctl("endpoints")},
		&cli.StringFlag{Name: "cacert", Usage: "authorities of the members' certificates, PEM", EnvVars: ctl("cacert")},
		&cli.StringFlag{Name: "cert", Usage: "certificate to show, PEM", EnvVars: ctl("cert")},
		&cli.StringFlag{Name: "key", Usage: "key of --cert", EnvVars: ctl("key")},
		&cli.StringFlag{Name: "user", Usage: "USER:PASSWORD; better given as LIMPET_USER, which no process list shows", EnvVars: ctl("user")},
		&cli.StringFlag{Name: "data-dir", Usage: "data directory of a member here: its token stands in for --cacert, --cert and --key"},
		&cli.DurationFlag{Name: "timeout", Usage: "how long to wait for an answer", Value: timeout},
	}
}

// newAccess reads what accessFlags say.
func newAccess(c *cli.Context) (*access, error) {
	dir := c.String("data-dir")
	if dir != "" && c.String("cacert")+c.String("cert") != "" {
		return nil, errors.New("--data-dir stands in for --cacert, --cert and --key; give one or the other")
	}
	a, err := givenAccess(c, "endpoints", "")
	if err == nil && dir != "" {
		a.tls, err = tokenTLS(dir)
	}
	return a, err
}

// remoteFlags are those of another server than limpet; their names begin with
// prefix.
func remoteFlags(endpoints, prefix, usage string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: endpoints, Usage: usage},
		&cli.StringFlag{Name: prefix + "cacert", Usage: "authorities of its certificate, PEM"},
		&cli.StringFlag{Name: prefix + "cert", Usage: "certificate to show it, PEM"},
		&cli.StringFlag{Name: prefix + "key", Usage: "key of --" + prefix + "cert"},
		&cli.StringFlag{Name: prefix + "user", Usage: "USER:PASSWORD there", EnvVars: []string{"LIMPET_" + strings.ToUpper(strings.ReplaceAll(prefix, "-", "_")) + "USER"}},
	}
}

// givenAccess reads the flags of one server: its endpoints, and those whose names
// begin with prefix.
func givenAccess(c *cli.Context, endpoints, prefix string) (*access, error) {
	a := &access{endpoints: splitList(c.String(endpoints)), timeout: c.Duration("timeout")}
	ca, cert, key := c.String(prefix+"cacert"), c.String(prefix+"cert"), c.String(prefix+"key")
	if len(a.endpoints) == 0 {
		return nil, fmt.Errorf("--%s is empty; give a client URL such as https://127.0.0.1:2379", endpoints)
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("--%[1]scert and --%[1]skey belong together; give both", prefix)
	}
	if user := c.String(prefix + "user"); user != "" {
		var ok bool
		if a.user, a.password, ok = strings.Cut(user, ":"); !ok || a.user == "" {
			return nil, fmt.Errorf("--%suser wants USER:PASSWORD", prefix)
		}
	}
	if ca+cert == "" {
		return a, nil
	}
	a.tls = new(tls.Config)
	if ca != "" {
		data, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("--%scacert: %w", prefix, err)
		}
		if a.tls.RootCAs = x509.NewCertPool(); !a.tls.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("--%scacert: %s holds no certificate in PEM", prefix, ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--%[1]scert and --%[1]skey: %[2]w", prefix, err)
		}
		a.tls.Certificates = []tls.Certificate{pair}
	}
	return a, nil
}

// tokenTLS trusts what the token of a data directory vouches for, and shows a
// certificate of the operator that lives as long as this process.
func tokenTLS(dir string) (*tls.Config, error) {
	token, err := server.StoredAuthority(dir)
	if err != nil {
		return nil, err
	}
	ca, err := token.CAPEM()
	if err != nil {
		return nil, err
	}
	cert, key, err := token.IssueClient(operator, nil)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
	cfg.RootCAs.AppendCertsFromPEM(ca)
	return cfg, nil
}

// tlsFor is TLS for an endpoint: one without a scheme speaks it if anything was
// said of it.
func (a *access) tlsFor(endpoint string) *tls.Config {
	switch scheme, _, found := strings.Cut(endpoint, ":"); {
	case found && (scheme == "http" || scheme == "unix"):
		return nil
	case a.tls == nil && (scheme == "https" || scheme == "unixs"):
		return new(tls.Config)
	}
	return a.tls
}

// client speaks etcd's protocol with members.
func (a *access) client(endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: a.tlsFor(endpoints[0]), Username: a.user, Password: a.password, Logger: zap.NewNop(),
		DialTimeout: a.timeout, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: a.timeout,
	})
}

// authorize logs the user in at an endpoint, for a request over HTTP.
func (a *access) authorize(ctx context.Context, endpoint string, r *http.Request) error {
	if a.user == "" {
		return nil
	}
	plain := access{tls: a.tls, timeout: a.timeout}
	client, err := plain.client(endpoint)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	resp, err := client.Authenticate(ctx, a.user, a.password)
	if errors.Is(err, rpctypes.ErrAuthNotEnabled) {
		return nil
	}
	if err == nil {
		r.Header.Set("Authorization", resp.Token)
	}
	return err
}

// request is a GET of path at an endpoint, and a client for this one request.
func (a *access) request(ctx context.Context, endpoint, path string) (*http.Client, *http.Request, error) {
	transport := &http.Transport{TLSClientConfig: a.tlsFor(endpoint), DisableKeepAlives: true}
	scheme := "http"
	if transport.TLSClientConfig != nil {
		scheme = "https"
	}
	target := endpoint
	switch u, err := url.Parse(endpoint); {
	case err == nil && strings.HasPrefix(u.Scheme, "unix"):
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", u.Host+u.Path)
		}
		target = scheme + "://localhost"
	case !strings.Contains(endpoint, "://"):
		target = scheme + "://" + endpoint
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(target, "/")+path, nil)
	return &http.Client{Transport: transport}, req, err
}

// whyPatience bounds the question why a member did not answer.
const whyPatience = time.Second

// explain adds what to do about an error, if that is known. Why an endpoint did
// not answer in time HTTP can tell: etcd's client tries on until the end, and
// keeps the reason to itself.
func (a *access) explain(endpoint string, err error) error {
	if errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty) {
		return fmt.Errorf("%w: authentication is enabled; give --user USER:PASSWORD, or set LIMPET_USER", err)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), whyPatience)
	defer cancel()
	_, why := reportAt(ctx, a, endpoint)
	if why == nil || ctx.Err() != nil {
		return err
	}
	return unreached(why)
}

// unreached says why HTTP did not get to a member, without the path, and what to do
// about it if that is known.
func unreached(why error) error {
	var (
		get    *url.Error
		verify *tls.CertificateVerificationError
		op     *net.OpError
	)
	if errors.As(why, &get) {
		why = get.Err // without the path
	}
	if errors.As(why, &verify) || errors.As(why, &op) && op.Op == "remote error" {
		return fmt.Errorf("%w; give --cacert, --cert and --key, or a member's --data-dir", why)
	}
	return why
}
