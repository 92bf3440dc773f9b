package server

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"limpet/api/ops"
)

// access is from where clients may ask over HTTP.
func (c *Config) access() *ops.Access { return &ops.Access{Origins: c.CORS, Hosts: c.HostWhitelist} }

// checkWeb checks what is said of clients' HTTP.
func (c *Config) checkWeb() error {
	if len(c.ListenClientHTTPURLs) > 0 {
		if err := checkURLs("listen-client-http-urls", c.ListenClientHTTPURLs, listening); err != nil {
			return err
		}
	}
	for _, u := range c.ListenClientHTTPURLs {
		if slices.ContainsFunc(c.ListenClientURLs, func(other string) bool { return sameAddress(u, other) }) {
			return fmt.Errorf("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url %s; give HTTP a port of its own", u)
		}
	}
	if slices.Equal(c.CORS, []string{"*"}) {
		return nil
	}
	for _, o := range c.CORS {
		err := checkURL(o, advertised)
		if err == nil && strings.HasSuffix(o, "/") { // with which no origin ends
			err = fmt.Errorf("%q: URL must not contain a path", o)
		}
		if err != nil {
			return fmt.Errorf("--cors: %w; write origins as http://host:port, or *", err)
		}
	}
	return nil
}

// sameAddress reports whether two valid URLs are to be listened on at one place.
func sameAddress(a, b string) bool {
	u, errA := url.Parse(a)
	v, errB := url.Parse(b)
	return errA == nil && errB == nil && isUnix(u) == isUnix(v) && u.Host == v.Host && u.Path == v.Path
}
