package monitoring

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

const dashboardFile = "../../deploy/monitoring/dashboard.json"

// dashboard is what of Grafana's model is looked at.
type dashboard struct {
	Title      string
	UID        string
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
			Datasource source
		}
	}
}

type source struct{ Type, UID string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []struct {
		RefID      string
		Expr       string
		Datasource source
		Legend     string `json:"legendFormat"`
	}
}

func readDashboard(t *testing.T) *dashboard {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	d := new(dashboard)
	if err := json.Unmarshal(text, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// filled puts in for Grafana's variables what it would.
func filled(expr string) string {
	return strings.NewReplacer("$__rate_interval", "2m", "$job", "limpet", "$instance", ".*").Replace(expr)
}

// The dashboard is one that Grafana can load: a variable for the data source, which
// everything uses, ids that are unique, panels that do not lie on each other, and
// expressions that Prometheus understands.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	const variable = "${datasource}"
	var named []string
	for _, v := range d.Templating.List {
		named = append(named, v.Name)
		if v.Name == "datasource" && (v.Type != "datasource" || v.Query != "prometheus") {
			t.Errorf("the variable datasource is a %s of %v, want a data source of prometheus", v.Type, v.Query)
		}
		if v.Name != "datasource" && v.Datasource.UID != variable {
			t.Errorf("the variable %s asks %q, want %s", v.Name, v.Datasource.UID, variable)
		}
	}
	for _, want := range []string{"datasource", "job", "instance"} {
		if !slices.Contains(named, want) {
			t.Errorf("there is no variable %s: %v", want, named)
		}
	}
	if d.Title == "" || d.UID == "" {
		t.Errorf("the dashboard has title %q and uid %q", d.Title, d.UID)
	}
	taken := map[[2]int]string{}
	ids := map[int]string{}
	for _, p := range d.Panels {
		if other, twice := ids[p.ID]; twice || p.ID == 0 {
			t.Errorf("%q has the id %d, as %q", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies on %q, or beyond the edge, at %d, %d", p.Title, other, x, y)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != variable || len(p.Targets) == 0 || p.Description == "" {
			t.Errorf("%q asks %q, has %d targets and says %q of itself", p.Title, p.Datasource.UID, len(p.Targets), p.Description)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] || target.Datasource.UID != variable {
				t.Errorf("%q: target %q asks %q, or is there twice", p.Title, target.RefID, target.Datasource.UID)
			}
			refs[target.RefID] = true
			if _, err := syntax.ParseExpr(filled(target.Expr)); err != nil {
				t.Errorf("%q: %s: %v", p.Title, target.Expr, err)
			}
			if strings.Contains(filled(target.Expr), "$") {
				t.Errorf("%q: %s has a variable that the test does not know", p.Title, target.Expr)
			}
		}
	}
}

// mayBeEmpty are panels that show nothing while all is well.
var mayBeEmpty = []string{"Calls that failed"}

// hangOnTheMachine are alerts that a slow or busy machine may raise in a test.
var hangOnTheMachine = []string{"LimpetDiskSlow", "LimpetDiskStalls", "LimpetMemberLags", "LimpetLeaderChangesOften", "LimpetProposalsFail"}

var legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)

// On three members that all is well with, no alert fires, every panel has something to
// show, and what expressions name is there.
func TestOnLiveMembers(t *testing.T) {
	l := watchThree(t)
	for _, r := range rules(t) {
		l.has(t, r.Alert, r.Expr)
		always := r
		always.For = 0 // not even for a moment
		if fired := firing(t, l.series, always, l.end); len(fired) > 0 && !slices.Contains(hangOnTheMachine, r.Alert) {
			t.Errorf("%s fires although all is well: %v", r.Alert, fired)
		}
	}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			expr := filled(target.Expr)
			l.has(t, p.Title, expr)
			shown := ask(t, l.series, expr, l.end)
			if len(shown) == 0 && !slices.Contains(mayBeEmpty, p.Title) {
				t.Errorf("%q shows nothing for %s", p.Title, expr)
			}
			for _, found := range legendLabel.FindAllStringSubmatch(target.Legend, -1) {
				if len(shown) > 0 && shown[0].Metric.Get(found[1]) == "" {
					t.Errorf("%q: the legend names %s, and there is %s", p.Title, found[1], shown[0].Metric)
				}
			}
		}
	}
}

// has fails where an expression names a metric that no member shows, or a label that
// it does not have.
func (l *live) has(t *testing.T, who, expr string) {
	t.Helper()
	parsed, err := syntax.ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %s: %v", who, expr, err)
		return
	}
	all := map[string]bool{}
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		if l.labels[v.Name] == nil {
			t.Errorf("%s: no member shows a metric %s", who, v.Name)
			return nil
		}
		for name := range l.labels[v.Name] {
			all[name] = true
		}
		for _, m := range v.LabelMatchers {
			if m.Name != labels.MetricName && !l.labels[v.Name][m.Name] {
				t.Errorf("%s: %s has no label %s", who, v.Name, m.Name)
			}
		}
		return nil
	})
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			for _, name := range a.Grouping {
				if !all[name] {
					t.Errorf("%s: it groups by %s, a label that nothing in it has", who, name)
				}
			}
		}
		return nil
	})
}
