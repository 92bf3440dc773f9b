package cli

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"
)

// applyConfigFile sets the flags from a YAML (or JSON) file, and its content, as etcd reads it:
// keys are the flags' names, durations are nanoseconds or Go durations, lists
// are comma-separated or YAML lists. Values from the command line and the
// environment are put back to their defaults first: the file alone counts. It
// returns the flags that the file gives, and keys that name no flag; those of
// etcd's mappings stand for flags.
func applyConfigFile(c *cli.Context, file string, data []byte) (given, unknown []string, err error) {
	bad := func(format string, args ...any) (_, _ []string, _ error) {
		return nil, nil, fmt.Errorf("--config-file %s"+format, append([]any{file}, args...)...)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		return bad(" is not valid YAML: %w", err)
	}
	if err := flattenSections(values); err != nil {
		return bad(": %w", err)
	}
	// Fresh flags, since those of the context took on the command line's values.
	for _, f := range serverFlags(settings()) {
		name := f.Names()[0]
		if name == "config-file" || name == "version" {
			continue
		}
		_, isDuration := f.(*cli.DurationFlag)
		text := defaultText(f)
		// A key without a value leaves the default, as in etcd's sample file.
		if v, ok := values[name]; ok && v != nil {
			if _, mapping := v.(map[string]any); mapping {
				return bad(": %s is a mapping, want one value", name)
			}
			text = valueText(v, isDuration)
			given = append(given, name)
		}
		if err := c.Set(name, text); err != nil {
			return bad(": %s is %q: %w", name, text, err)
		}
		delete(values, name)
	}
	for name := range values {
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	return given, unknown, nil
}

// defaults is what limpet server is asked by a command line that says nothing.
func defaults(all []setting) (*cli.Context, error) {
	set := flag.NewFlagSet("server", flag.ContinueOnError)
	for _, f := range serverFlags(all) {
		if err := f.Apply(set); err != nil {
			return nil, err
		}
	}
	return cli.NewContext(nil, set, nil), nil
}

// levelInFile is the level of the log that a configuration file says.
func levelInFile(file string) (string, error) {
	all := settings()
	c, err := defaults(all)
	if err != nil {
		return "", err
	}
	o := &orders{given: map[string]bool{}}
	if err := o.file(c, file); err != nil {
		return "", err
	}
	err = o.older(c, all)
	return c.String("log-level"), err
}

// section is a mapping in etcd's file: the flag that each of its keys means, empty
// if limpet has no use for it.
type section struct {
	flags map[string]string
	// strict: etcd ignores what it does not know; who is let in must not hang on a
	// misspelt key.
	strict bool
}

// sections are etcd's mappings (embed.configYAML).
var sections = map[string]section{
	"client-transport-security": {strict: true, flags: map[string]string{
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "client-cert-file", "client-key-file": "client-key-file",
		"client-cert-auth": "client-cert-auth", "trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls",
		"allowed-cn": "client-cert-allowed-cn", "allowed-cns": "client-cert-allowed-cn",
		"allowed-hostname": "client-cert-allowed-hostname", "allowed-hostnames": "client-cert-allowed-hostname",
		"client-crl-file": "client-crl-file", "skip-client-san-verification": "",
	}},
	"peer-transport-security": {strict: true, flags: map[string]string{
		"cert-file": "peer-cert-file", "key-file": "peer-key-file",
		"client-cert-file": "peer-client-cert-file", "client-key-file": "peer-client-key-file",
		"client-cert-auth": "peer-client-cert-auth", "trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-cns": "peer-cert-allowed-cn",
		"allowed-hostname": "peer-cert-allowed-hostname", "allowed-hostnames": "peer-cert-allowed-hostname",
		"peer-crl-file": "peer-crl-file", "skip-client-san-verification": "peer-skip-client-san-verification",
	}},
	"socket-options":   {flags: map[string]string{"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"}},
	"discovery-config": {flags: map[string]string{"token": "discovery-token", "endpoints": "discovery-endpoints"}},
}

// flattenSections puts what mappings say under the names of flags.
func flattenSections(values map[string]any) error {
	for name, s := range sections {
		mapping, ok := values[name].(map[string]any)
		if !ok && values[name] != nil {
			return fmt.Errorf("%s is %q, want a mapping", name, fmt.Sprint(values[name]))
		}
		delete(values, name)
		for key, v := range mapping {
			flag, known := s.flags[key]
			switch {
			case flag != "" && v != nil:
				values[flag] = v
			case s.strict && !known && v != nil && v != "" && v != false:
				return fmt.Errorf("%s has no key %s", name, key)
			}
		}
	}
	return nil
}

func defaultText(f cli.Flag) string {
	switch f := f.(type) {
	case *cli.GenericFlag:
		return ""
	case *cli.StringFlag:
		return f.Value
	case *cli.Int64Flag:
		return fmt.Sprint(f.Value)
	case *cli.Uint64Flag:
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
