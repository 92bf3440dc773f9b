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
// flag are returned; those of etcd's mappings about TLS stand for flags.
func applyConfigFile(c *cli.Context, file string) (unknown []string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config-file: %w", err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("--config-file %s is not valid YAML: %w", file, err)
	}
	if err := flattenTLS(values); err != nil {
		return nil, fmt.Errorf("--config-file %s: %w", file, err)
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
	for name := range values {
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	return unknown, nil
}

// sections are etcd's mappings about TLS (embed.securityConfig): the flag that
// each of their keys means, empty if limpet has no use for it.
var sections = map[string]map[string]string{
	"client-transport-security": {
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "", "client-key-file": "",
		"client-cert-auth": "client-cert-auth", "trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls",
		"allowed-cn": "client-cert-allowed-cn", "allowed-hostname": "client-cert-allowed-hostname",
		"skip-client-san-verification": "",
	},
	"peer-transport-security": {
		"cert-file": "peer-cert-file", "key-file": "peer-key-file",
		"client-cert-file": "peer-client-cert-file", "client-key-file": "peer-client-key-file",
		"client-cert-auth": "peer-client-cert-auth", "trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	},
}

// flattenTLS puts what the mappings about TLS say under the names of flags.
func flattenTLS(values map[string]any) error {
	for name, flags := range sections {
		section, ok := values[name].(map[string]any)
		if !ok && values[name] != nil {
			return fmt.Errorf("%s is %q, want a mapping", name, fmt.Sprint(values[name]))
		}
		delete(values, name)
		for key, v := range section {
			flag, known := flags[key]
			switch {
			case flag != "":
				values[flag] = v
			case !known && v != nil && v != "" && v != false:
				// etcd ignores what it does not know; who is let in must not hang on a
				// misspelt key.
				return fmt.Errorf("%s has no key %s", name, key)
			}
		}
	}
	return nil
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
