package cli

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"gopkg.in/yaml.v3"
)

// applyConfigFile sets the flags from a YAML (or JSON) file as etcd reads it:
// keys are the flags' names, durations are nanoseconds or Go durations, lists
// are comma-separated or YAML lists. Values from the command line and the
// environment are put back to their defaults first: the file alone counts. Keys that name no
// flag are returned.
func applyConfigFile(c *cli.Context, file string) (unknown []string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config-file: %w", err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("--config-file %s is not valid YAML: %w", file, err)
	}
	// Fresh flags, since those of the context took on the environment's values.
	for _, f := range serverFlags(settings()) {
		name := f.Names()[0]
		if name == "config-file" {
			continue
		}
		_, isDuration := f.(*cli.DurationFlag)
		text := defaultText(f)
		// A key without a value leaves the default, as in etcd's sample file.
		if v, ok := values[name]; ok && v != nil {
			if _, mapping := v.(map[string]any); mapping {
				return nil, fmt.Errorf("--config-file %s: %s is a mapping, want one value", file, name)
			}
			text = valueText(v, isDuration)
		}
		if err := c.Set(name, text); err != nil {
			return nil, fmt.Errorf("--config-file %s: %s is %q: %w", file, name, text, err)
		}
		delete(values, name)
	}
	for name, v := range values {
		// etcd ignores what it does not know; a member that was to speak TLS
		// must not quietly speak without.
		if section, ok := v.(map[string]any); ok && strings.HasSuffix(name, "-transport-security") && asksForTLS(section) {
			return nil, fmt.Errorf("--config-file %s: %s: this version of limpet has no TLS", file, name)
		}
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	return unknown, nil
}

func asksForTLS(section map[string]any) bool {
	for _, v := range section {
		if v != nil && v != "" && v != false {
			return true
		}
	}
	return false
}

func defaultText(f cli.Flag) string {
	switch f := f.(type) {
	case *cli.StringFlag:
		return f.Value
	case *cli.Int64Flag:
		return fmt.Sprint(f.Value)
	case *cli.DurationFlag:
		return f.Value.String()
	case *cli.BoolFlag:
		return fmt.Sprint(f.Value)
	}
	panic(fmt.Sprintf("cli: flag %T has no default text", f))
}

// valueText is a YAML value as a flag would be given.
func valueText(v any, isDuration bool) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, p := range v {
			parts[i] = valueText(p, isDuration)
		}
		return strings.Join(parts, ",")
	case int:
		return integerText(int64(v), isDuration)
	case int64:
		return integerText(v, isDuration)
	case uint64:
		if v <= math.MaxInt64 {
			return integerText(int64(v), isDuration)
		}
	}
	return fmt.Sprint(v)
}

// integerText: a duration without a unit is in nanoseconds, as etcd writes it.
func integerText(n int64, isDuration bool) string {
	if isDuration {
		return time.Duration(n).String()
	}
	return strconv.FormatInt(n, 10)
}
