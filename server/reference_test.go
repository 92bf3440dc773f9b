package server

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	_ "github.com/cockroachdb/datadriven" // its flag -rewrite

	"limpet/docs/doctest"
)

// metric is what a member tells of one.
type metric struct{ name, kind, labels, help string }

// description is a prometheus.Desc as text, which is the only way to read it.
var description = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: ("(?:[^"\\]|\\.)*"), (?:unit: "[^"]*", )?constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}\}$`)

// tellAll is what members' registries know, also where nothing was counted yet.
func tellAll(t *testing.T, members ...*member) []metric {
	t.Helper()
	kinds, labels, help := map[string]string{}, map[string][]string{}, map[string]string{}
	for _, m := range members {
		families, err := m.metrics.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			kinds[f.GetName()] = strings.ToLower(f.GetType().String())
		}
		describe(t, m.metrics.Registry, labels, help)
	}
	var all []metric
	for name := range help {
		if kinds[name] == "" {
			t.Errorf("%s has no series: have the test count one, so that its type is known", name)
		}
		all = append(all, metric{name, kinds[name], strings.Join(labels[name], " "), help[name]})
	}
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return all
}

// describe reads the descriptions in a registry.
func describe(t *testing.T, r *prometheus.Registry, labels map[string][]string, help map[string]string) {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() { r.Describe(descs); close(descs) }() // ends with the last description
	defer func() {
		for range descs { // so that the sender ends, too
		}
	}()
	for d := range descs {
		found := description.FindStringSubmatch(d.String())
		if found == nil {
			t.Fatalf("a description is written otherwise now: %s", d)
		}
		name := found[1]
		help[name] = strings.NewReplacer(`\n`, " ", `\"`, `"`).Replace(strings.Trim(found[2], `"`))
		fixed, _, _ := strings.Cut(found[3], "=") // alarm="NOSPACE", one at most
		for _, l := range append(strings.Split(found[4], ","), fixed) {
			if l != "" && !slices.Contains(labels[name], l) {
				labels[name] = append(labels[name], l)
			}
		}
	}
}

// groups are the tables of metrics, by how their names begin.
var groups = []struct{ title, prefix string }{
	{"limpet's own", "limpet_"},
	{"Under etcd's names", "etcd_"},
	{"gRPC", "grpc_"},
	{"The process and Go", ""},
}

// What docs/reference.md says of metrics is what the code says; with -rewrite it is
// written anew.
func TestReferenceOfMetrics(t *testing.T) {
	cfg := newConfig(t)
	cfg.Metrics = "extensive"
	extensive := start(t, cfg)
	three := startThree(t)
	for _, m := range []*member{extensive, three[0]} {
		m.put("a", "1")
		for _, page := range []string{"/readyz", "/metrics"} {
			httpGet(t, m.cfg.ListenClientURLs[0]+page)
		}
	}
	// What these members do not come to.
	other := three[1].dir.now().member()
	three[0].metrics.API.NotPromoted.WithLabelValues("")
	three[0].metrics.Images.Send(other)(true)
	three[0].metrics.Images.Send(other)(false)
	three[0].metrics.Images.Received(other)

	var b strings.Builder
	left := tellAll(t, extensive, three[0])
	for _, g := range groups {
		fmt.Fprintf(&b, "### %s\n\n| metric | type | labels | what it is |\n|---|---|---|---|\n", g.title)
		var rest []metric
		for _, f := range left {
			if !strings.HasPrefix(f.name, g.prefix) {
				rest = append(rest, f)
				continue
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, f.kind, f.labels, strings.ReplaceAll(f.help, "|", "\\|"))
		}
		left = rest
		b.WriteString("\n")
	}
	doctest.Keep(t, "../docs/reference.md", "metrics", b.String())
}
