package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"limpet/safefile"
	"limpet/server"
	"limpet/trust"
)

func configCommand() *cli.Command {
	all := settings()
	flags := []cli.Flag{
		&cli.StringFlag{Name: "file", Usage: "the configuration file", Required: true},
		&cli.StringSliceFlag{Name: "unset", Usage: "a key that goes back to its default"},
		&cli.StringFlag{Name: "token-owner", Usage: "user to whom the token's file belongs; only root can give it away"},
	}
	for _, f := range serverFlags(all) {
		if name := f.Names()[0]; name != "config-file" && name != "version" {
			flags = append(flags, f)
		}
	}
	return &cli.Command{
		Name:  "config",
		Usage: "write and check a configuration file",
		Subcommands: []*cli.Command{{
			Name:  "set",
			Usage: "write flags of limpet server, and LIMPET_ variables, into a configuration file",
			Description: "Takes every flag of limpet server. Keys that are not given stay as they are; the\n" +
				"file is written only if a member could start with what it says then. A token goes\n" +
				"into the file that token-file names, else beside the configuration file, readable\n" +
				"for its owner alone. Without flags, it checks the file:\n\n" +
				"    limpet config set --file /etc/limpet/config.yaml --quota-backend-bytes 4294967296\n" +
				"    limpet config set --file /etc/limpet/config.yaml --unset join\n" +
				"    limpet config set --file /etc/limpet/config.yaml",
			CustomHelpTemplate: configHelp,
			OnUsageError:       usageError,
			Flags:              named(flags),
			Action:             func(c *cli.Context) error { return setConfig(c, all) },
		}, {
			Name:         "get",
			Usage:        "print what a configuration file says of a key",
			ArgsUsage:    "KEY",
			Description:  "Fails if the file does not say it: then the default holds.",
			OnUsageError: usageError,
			Flags:        []cli.Flag{&cli.StringFlag{Name: "file", Usage: "the configuration file", Required: true}},
			Action:       getConfig,
		}},
	}
}

func getConfig(c *cli.Context) error {
	if c.NArg() != 1 {
		return fmt.Errorf("limpet config get takes one key, got %d; see limpet config get --help", c.NArg())
	}
	file, key := c.String("file"), c.Args().First()
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	doc, err := readConfigDocument(file, data)
	if err != nil {
		return err
	}
	in, i := doc.find(key)
	if i < 0 {
		return fmt.Errorf("%s says nothing of %s", file, key)
	}
	var value any
	if err := in.Content[i+1].Decode(&value); err != nil {
		return fmt.Errorf("%s: %s: %w", file, key, err)
	}
	_, err = fmt.Fprintln(c.App.Writer, valueText(value, false))
	return err
}

// configHelp leaves out the two hundred flags of limpet server, which has a help
// of its own.
const configHelp = `limpet config set: {{.Usage}}

  limpet config set --file FILE [--unset KEY] [--token-owner USER] [flags of limpet server]

{{.Description}}

  --file FILE          the configuration file
  --unset KEY          a key that goes back to its default; may be given again
  --token-owner USER   user to whom the token's file belongs; only root can give it away
`

func setConfig(c *cli.Context, all []setting) error {
	if c.Args().Present() {
		return fmt.Errorf("%q is not a valid flag; see limpet config set --help", c.Args().First())
	}
	file := c.String("file")
	owner, err := ownerNamed(c.String("token-owner"))
	if err != nil {
		return err
	}
	before, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--file: %w", err)
	}
	doc, err := readConfigDocument(file, before)
	if err != nil {
		return err
	}
	token, err := doc.takeGiven(c, all)
	if err != nil {
		return err
	}
	for _, key := range c.StringSlice("unset") {
		doc.unset(key)
	}
	if token != "" && doc.text("token-file") == "" {
		doc.set("token-file", textNode(filepath.Join(filepath.Dir(file), "token")))
	}
	if err := doc.check(c.App.ErrWriter, all); err != nil {
		return err
	}
	if token != "" {
		// First, so that a file that names it never lacks it.
		if err := doc.writeToken(token, owner); err != nil {
			return err
		}
	}
	return doc.write(c.App.Writer, before)
}

// ownerNamed is nil if nobody is named.
func ownerNamed(name string) (*safefile.Owner, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("--token-owner: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, fmt.Errorf("--token-owner: %w", err)
	}
	gid, err := strconv.Atoi(u.Gid)
	return &safefile.Owner{UID: uid, GID: gid}, err
}

// configDocument is a configuration file that is being changed: comments, order
// and keys that nobody knows stay.
type configDocument struct {
	file    string
	root    yaml.Node
	changes []string // in words
}

func readConfigDocument(file string, data []byte) (*configDocument, error) {
	d := &configDocument{file: file}
	if err := yaml.Unmarshal(data, &d.root); err != nil {
		return nil, fmt.Errorf("%s is not valid YAML: %w", file, err)
	}
	if d.root.Kind == 0 || len(d.root.Content) == 0 || d.root.Content[0].Tag == "!!null" { // empty, or comments only
		comment := d.root.HeadComment + d.root.FootComment
		d.root = yaml.Node{Kind: yaml.DocumentNode, HeadComment: comment, Content: []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}}
	}
	if d.root.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s is not a mapping of the flags' names to their values", file)
	}
	return d, nil
}

// takeGiven takes over flags and variables. A token is returned instead: it has a
// file of its own.
func (d *configDocument) takeGiven(c *cli.Context, all []setting) (token string, err error) {
	for _, f := range serverFlags(all) {
		name := f.Names()[0]
		if name == "config-file" || name == "version" {
			continue
		}
		if !c.IsSet(name) {
			value := os.Getenv(envNames(name)[0])
			if value == "" {
				continue
			}
			if err := c.Set(name, value); err != nil {
				return "", fmt.Errorf("invalid value %q for %s: %w", value, envNames(name)[0], err)
			}
		}
		if (name == "s3-secret-key" || name == "s3-session-token") && c.String(name) != "" {
			return "", errSecretInFile
		}
		if name == "token" {
			t, err := trust.ParseToken(c.String(name))
			if err != nil {
				return "", err
			}
			token = t.Reveal()
			continue
		}
		d.set(name, valueNode(c.Value(name), c.String(name)))
	}
	return token, nil
}

// valueNode is a flag's value as YAML.
func valueNode(v any, text string) *yaml.Node {
	switch v := v.(type) {
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
	case int64, uint64:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(v)}
	case fmt.Stringer: // a duration, above all
		return textNode(v.String())
	}
	return textNode(text)
}

func textNode(s string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(s)
	return n
}

// find is where a key stands: in a mapping of etcd's that has it, else on top.
func (d *configDocument) find(key string) (in *yaml.Node, at int) {
	top := d.root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		s, ok := sections[top.Content[i].Value]
		if mapping := top.Content[i+1]; ok && mapping.Kind == yaml.MappingNode {
			for j := 0; j+1 < len(mapping.Content); j += 2 {
				if s.flags[mapping.Content[j].Value] == key {
					return mapping, j
				}
			}
		}
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == key {
			return top, i
		}
	}
	return top, -1
}

// text is what a key says; empty if it is not there.
func (d *configDocument) text(key string) string {
	if in, i := d.find(key); i >= 0 {
		return in.Content[i+1].Value
	}
	return ""
}

func (d *configDocument) set(key string, value *yaml.Node) {
	in, i := d.find(key)
	if i < 0 {
		in.Content = append(in.Content, textNode(key), value)
		d.changes = append(d.changes, fmt.Sprintf("%s: %s", key, value.Value))
		return
	}
	old := in.Content[i+1]
	if old.Kind == yaml.ScalarNode && old.Value == value.Value {
		return
	}
	var had any
	_ = old.Decode(&had) // it came from a document that was read
	value.LineComment = old.LineComment
	in.Content[i+1] = value
	d.changes = append(d.changes, fmt.Sprintf("%s: %s (was %s)", key, value.Value, valueText(had, false)))
}

func (d *configDocument) unset(key string) {
	if in, i := d.find(key); i >= 0 {
		in.Content = slices.Delete(in.Content, i, i+2)
		d.changes = append(d.changes, key+": its default")
	}
}

// bytes is the file as it is to be.
func (d *configDocument) bytes() ([]byte, error) {
	if len(d.root.Content[0].Content) == 0 && d.root.HeadComment == "" {
		return nil, nil
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	err := errors.Join(enc.Encode(&d.root), enc.Close())
	return b.Bytes(), err
}

// check reads the file as limpet server would. What it would warn of goes to w.
func (d *configDocument) check(w io.Writer, all []setting) error {
	data, err := d.bytes()
	if err != nil {
		return err
	}
	c, err := defaults(all)
	if err != nil {
		return err
	}
	o := &orders{cfg: server.DefaultConfig(), given: map[string]bool{}}
	if err := o.content(c, d.file, data); err != nil {
		return err
	}
	if err := o.settle(c, all); err != nil {
		return err
	}
	for _, n := range o.notes {
		_, _ = fmt.Fprintln(w, "limpet:", strings.TrimSpace(n.text+" "+strings.TrimSuffix(fmt.Sprintln(n.with...), "\n")))
	}
	return o.cfg.Validate()
}

func (d *configDocument) writeToken(token string, owner *safefile.Owner) error {
	file := d.text("token-file")
	content := []byte(token + "\n")
	if had, err := os.ReadFile(file); err == nil && bytes.Equal(had, content) && keptFor(file, owner) {
		return nil
	}
	if err := safefile.WriteFor(file, content, 0o600, owner); err != nil {
		return fmt.Errorf("the token: %w", err)
	}
	d.changes = append(d.changes, "the token: in "+file)
	return nil
}

// keptFor reports whether a file is for its owner alone, and that is owner; nil: it
// may be anybody's.
func keptFor(file string, owner *safefile.Owner) bool {
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return owner == nil || ok && int(st.Uid) == owner.UID
}

// write replaces the file if it is to change, and tells what does.
func (d *configDocument) write(w io.Writer, before []byte) error {
	data, err := d.bytes()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(d.changes, func(c string) bool { return !strings.HasPrefix(c, "the token:") }) {
		data = before // as it was written
	}
	if !bytes.Equal(data, before) {
		if err := safefile.WriteFor(d.file, data, 0o644, nil); err != nil {
			return err
		}
	}
	if len(d.changes) == 0 {
		_, err := fmt.Fprintf(w, "%s: no change\n", d.file)
		return err
	}
	_, err = fmt.Fprintln(w, strings.Join(d.changes, "\n"))
	return err
}
