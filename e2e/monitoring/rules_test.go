package monitoring

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
)

const rulesFile = "../../deploy/monitoring/alerts.yaml"

// began is when series begin, and minute is between their samples and between two looks
// at a rule.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const minute = time.Minute

// rules are those of the file, as Prometheus reads it.
func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.UTF8Validation, syntax, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// firing are the labels with which a rule fires at some time until end, and when it
// first does: its expression has held for as long as the rule says, at every look.
func firing(t *testing.T, m memory, r rulefmt.Rule, end time.Time) map[string]time.Time {
	t.Helper()
	fired, since := map[string]time.Time{}, map[string]time.Time{}
	for at := began; !at.After(end); at = at.Add(minute) {
		now := map[string]time.Time{}
		for _, sample := range ask(t, m, r.Expr, at) {
			key := sample.Metric.DropReserved(func(name string) bool { return name == labels.MetricName }).String()
			if now[key] = at; !since[key].IsZero() {
				now[key] = since[key]
			}
			if at.Sub(now[key]) >= time.Duration(r.For) && fired[key].IsZero() {
				fired[key] = at
			}
			namesLabels(t, r, sample.Metric)
		}
		since = now
	}
	return fired
}

var namedLabel = regexp.MustCompile(`\$labels\.(\w+)`)

// namesLabels fails where a text of a rule names a label that its result does not have.
func namesLabels(t *testing.T, r rulefmt.Rule, have labels.Labels) {
	t.Helper()
	for _, text := range r.Annotations {
		for _, found := range namedLabel.FindAllStringSubmatch(text, -1) {
			if have.Get(found[1]) == "" {
				t.Fatalf("%s speaks of the label %s, and it comes with %s", r.Alert, found[1], have)
			}
		}
	}
}

// trial is some series on which an alert should fire, or should not.
type trial struct {
	alert  string
	fires  bool
	about  string // what is the case
	series memory
	end    time.Time
	line   int
}

// trials reads testdata/alerts.txt. Series are written as promtool's, a sample each
// minute.
func trials(t *testing.T) []*trial {
	t.Helper()
	text, err := os.ReadFile("testdata/alerts.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []*trial
	for i, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] == "#":
		case !strings.HasPrefix(line, " "):
			if len(words) < 3 || words[1] != "fires:" && words[1] != "quiet:" {
				t.Fatalf("testdata/alerts.txt:%d: want ALERT fires: or quiet:, and what is the case", i+1)
			}
			all = append(all, &trial{alert: words[0], fires: words[1] == "fires:", about: strings.Join(words[2:], " "), series: memory{}, end: began, line: i + 1})
		default:
			last := all[len(all)-1]
			l, values, err := syntax.ParseSeriesDesc(strings.TrimSpace(line))
			if err != nil {
				t.Fatalf("testdata/alerts.txt:%d: %v", i+1, err)
			}
			for n, v := range values {
				if at := began.Add(time.Duration(n) * minute); !v.Omitted {
					value := v.Value
					if l.Get(model.MetricNameLabel) == "limpet_clock_seconds" { // written as how wrong it is
						value += float64(at.Unix())
					}
					last.series.add(l, at, value)
					if at.After(last.end) {
						last.end = at
					}
				}
			}
		}
	}
	return all
}

// Every alert fires on series on which it should, and on none on which it should not.
func TestAlerts(t *testing.T) {
	byName, tried := map[string]rulefmt.Rule{}, map[string]map[bool]int{}
	for _, r := range rules(t) {
		if _, twice := byName[r.Alert]; twice {
			t.Errorf("there are two alerts %s", r.Alert)
		}
		byName[r.Alert], tried[r.Alert] = r, map[bool]int{}
		if s := r.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, s) {
			t.Errorf("%s has severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say what is the matter, or not what to do", r.Alert)
		}
	}
	for _, c := range trials(t) {
		r, ok := byName[c.alert]
		if !ok {
			t.Errorf("testdata/alerts.txt:%d: there is no alert %s", c.line, c.alert)
			continue
		}
		tried[c.alert][c.fires]++
		t.Run(fmt.Sprintf("%s/%s", c.alert, c.about), func(t *testing.T) {
			fired := firing(t, c.series, r, c.end)
			if (len(fired) > 0) != c.fires {
				t.Errorf("testdata/alerts.txt:%d: fired: %v, want that it fires: %v", c.line, fired, c.fires)
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(tried)) {
		if tried[name][true] == 0 || tried[name][false] == 0 {
			t.Errorf("%s is tried on %d cases in which it should fire and %d in which not, want one of each at least", name, tried[name][true], tried[name][false])
		}
	}
}
