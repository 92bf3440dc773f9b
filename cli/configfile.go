package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"gopkg.in/yaml.v3"
)

// applyConfigFile sets the flags from a YAML (or JSON) file as etcd reads it:
// keys are the flags' names, durations are nanoseconds or Go durations, lists
// are comma-separated or YAML lists. Values from the command line and the
// environment are put back to their defaults first: the file alone counts.
func applyConfigFile(c *cli.Context, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config-file: %w", err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("--config-file %s is not valid YAML: %w", file, err)
	}
	// Fresh flags, since those of the context took on the environment's values.
	for _, f := range serverFlags(settings()) {
		name := f.Names()[0]
		if name == "config-file" {
			continue
		}
		_, isDuration := f.(*cli.DurationFlag)
		text := defaultText(f)
		if v, ok := values[name]; ok {
			text = valueText(v, isDuration)
			delete(values, name)
		}
		if err := c.Set(name, text); err != nil {
			return fmt.Errorf("--config-file %s: %s is %q: %w", file, name, text, err)
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

func valueText(v any, isDuration bool) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, p := range v {
			parts[i] = fmt.Sprint(p)
		}
		return strings.Join(parts, ",")
	case int:
		if isDuration {
			return time.Duration(v).String()
		}
	}
	return fmt.Sprint(v)
}
