package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"limpet/cluster"
)

// findFounders asks the DNS who founds the cluster, as etcd's --discovery-srv
// does, if this member is in none yet. Of the others the records tell where they
// are, not what they are called.
func (s *Server) findFounders(ctx context.Context) error {
	c := &s.cfg
	if s.dir.id.ClusterID != "" && !s.dir.id.Forming {
		return nil
	}
	if err := c.refuseDiscovery(); err != nil || c.SRVDomain == "" {
		return err
	}
	found, err := c.lookUpFounders(ctx)
	switch {
	case len(found) == 0:
		return fmt.Errorf("--discovery-srv %s names no members: %w", c.SRVDomain, err)
	case !slices.ContainsFunc(found, func(f cluster.Founder) bool { return f.Name == c.Name }):
		return fmt.Errorf("cannot find local etcd member %q in SRV records: none of those of %s leads to %s", c.Name, c.SRVDomain, strings.Join(c.AdvertisePeerURLs, ","))
	}
	s.log.Info("the DNS names the members to begin with", "domain", c.SRVDomain, "members", len(found))
	c.found = found
	return nil
}

// refuseDiscovery keeps a member that is new from beginning a cluster of its own
// where somebody wanted it to meet others at a service that limpet does not ask.
func (c *Config) refuseDiscovery() error {
	switch {
	case c.DiscoveryURL != "":
		return errors.New("--discovery: limpet asks no discovery service; give --join or --discover and the token, --discovery-srv, or name the members with --initial-cluster")
	case len(c.DiscoveryEndpoints) > 0:
		return errors.New("--discovery-endpoints: limpet asks no discovery service; give --join or --discover and the token, --discovery-srv, or name the members with --initial-cluster")
	}
	return nil
}

// lookUpFounders reads the records for https and for http, as etcd does
// (embed.GetDNSClusterNames): an error counts if there are no members.
func (c *Config) lookUpFounders(ctx context.Context) ([]cluster.Founder, error) {
	suffix := ""
	if c.SRVName != "" {
		suffix = "-" + c.SRVName
	}
	own := make(map[string]string) // host:port to the URL of this member
	for _, s := range c.AdvertisePeerURLs {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err // validated before
		}
		for _, at := range c.addresses(ctx, u.Hostname(), u.Port()) {
			own[at] = s
		}
	}
	secure, err := c.lookUp(ctx, "https", "etcd-server-ssl"+suffix, own)
	plain, err2 := c.lookUp(ctx, "http", "etcd-server"+suffix, own)
	return append(secure, plain...), errors.Join(err, err2)
}

// lookUp reads the records of one service.
func (c *Config) lookUp(ctx context.Context, scheme, service string, own map[string]string) ([]cluster.Founder, error) {
	_, records, err := c.dns().LookupSRV(ctx, service, "tcp", c.SRVDomain)
	if err != nil {
		return nil, fmt.Errorf("error querying DNS SRV records for _%s: %w", service, err)
	}
	var out []cluster.Founder
	for _, r := range records {
		host, port := strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))
		f := cluster.Founder{URLs: []string{scheme + "://" + net.JoinHostPort(host, port)}}
		for _, at := range c.addresses(ctx, host, port) {
			mine, ok := own[at]
			if !ok {
				continue
			}
			if !strings.HasPrefix(mine, scheme+":") {
				return nil, fmt.Errorf("bootstrap at %s from DNS for %s has scheme mismatch with expected peer %s", f.URLs[0], service, mine)
			}
			f.Name, f.URLs = c.Name, c.AdvertisePeerURLs
			break
		}
		if f.Name == "" || !slices.ContainsFunc(out, func(o cluster.Founder) bool { return o.Name == f.Name }) {
			out = append(out, f)
		}
	}
	return out, nil
}

// addresses are host and what it resolves to, each with the port.
func (c *Config) addresses(ctx context.Context, host, port string) []string {
	out := []string{net.JoinHostPort(host, port)}
	ips, _ := c.dns().LookupHost(ctx, host) // a name not yet known is compared as it is
	for _, ip := range ips {
		out = append(out, net.JoinHostPort(ip, port))
	}
	return out
}

func (c *Config) dns() *net.Resolver {
	if c.resolver == nil {
		return net.DefaultResolver
	}
	return c.resolver
}
