package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"limpet/safefile"
	"limpet/server"
)

func k3sCommand() *cli.Command {
	return &cli.Command{
		Name:  "k3s-config",
		Usage: "tell k3s to keep its state in limpet",
		Description: "Prints what belongs into /etc/rancher/k3s/config.yaml, or writes it to a file\n" +
			"with --out, such as /etc/rancher/k3s/config.yaml.d/limpet.yaml. For https\n" +
			"endpoints k3s gets a certificate of the cluster's authority, whose files are\n" +
			"written below --certs; --datastore-cafile and its like name other files instead.\n\n" +
			"    limpet k3s-config --endpoint https://127.0.0.1:2379 --data-dir /var/lib/limpet\n" +
			"    limpet k3s-config --endpoint unix:///run/limpet.sock",
		OnUsageError: usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "endpoint", Usage: "client URLs of members, http, https, unix or unixs; comma-separated", Value: "http://127.0.0.1:2379"},
			dataDirFlag(),
			&cli.StringFlag{Name: "certs", Usage: "folder for limpet-ca.crt, limpet-client.crt and limpet-client.key", Value: "/etc/rancher/k3s"},
			&cli.StringFlag{Name: "cn", Usage: "common name of the certificate; with users, the user", Value: "k3s"},
			&cli.StringFlag{Name: "datastore-cafile", Usage: "authorities of the members' certificates"},
			&cli.StringFlag{Name: "datastore-certfile", Usage: "certificate that k3s shows"},
			&cli.StringFlag{Name: "datastore-keyfile", Usage: "key of --datastore-certfile"},
			&cli.StringFlag{Name: "out", Usage: "file to write instead of printing"},
			forceFlag(),
		},
		Action: func(c *cli.Context) error {
			snippet, err := k3sSnippet(c)
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(snippet)
			if err != nil {
				return err
			}
			out := c.String("out")
			if out == "" {
				_, err = c.App.Writer.Write(text)
				return err
			}
			return safefile.Write(out, text)
		},
	}
}

// k3sDatastore are the keys of k3s's configuration, which are the names of its
// flags.
type k3sDatastore struct {
	Endpoint string `yaml:"datastore-endpoint"`
	CA       string `yaml:"datastore-cafile,omitempty"`
	Cert     string `yaml:"datastore-certfile,omitempty"`
	Key      string `yaml:"datastore-keyfile,omitempty"`
}

// k3sSnippet writes certificates, if k3s needs some and none were named. Nothing
// is written if anything is in the way.
func k3sSnippet(c *cli.Context) (*k3sDatastore, error) {
	endpoints := splitList(c.String("endpoint"))
	if len(endpoints) == 0 {
		return nil, errors.New("--endpoint is empty; give a client URL such as https://127.0.0.1:2379")
	}
	secure, err := oneScheme(endpoints)
	if err != nil {
		return nil, err
	}
	if out := c.String("out"); out != "" {
		if err := mayWrite(out, c.Bool("force")); err != nil {
			return nil, err
		}
	}
	s := &k3sDatastore{Endpoint: strings.Join(endpoints, ","), CA: c.String("datastore-cafile"), Cert: c.String("datastore-certfile"), Key: c.String("datastore-keyfile")}
	switch named := s.CA + s.Cert + s.Key; {
	case (s.Cert == "") != (s.Key == ""):
		return nil, errors.New("--datastore-certfile and --datastore-keyfile belong together; give both")
	case named != "" && !secure:
		return nil, fmt.Errorf("--endpoint %s speaks no TLS, which certificates are for; write https", s.Endpoint)
	case named != "" || !secure:
		return s, nil
	}
	return s, s.issue(c)
}

// oneScheme reports whether the endpoints speak TLS. k3s takes all to be like
// the first, and knows a driver by the scheme.
func oneScheme(endpoints []string) (secure bool, err error) {
	first, _, _ := strings.Cut(endpoints[0], "://")
	for _, e := range endpoints {
		scheme, rest, ok := strings.Cut(e, "://")
		switch {
		case !ok || rest == "":
			return false, fmt.Errorf("--endpoint has %q, want a URL such as https://127.0.0.1:2379 or unix:///run/limpet.sock", e)
		case scheme != "http" && scheme != "https" && scheme != "unix" && scheme != "unixs":
			return false, fmt.Errorf("--endpoint has %q: k3s speaks with limpet over http, https, unix or unixs", e)
		case scheme != first:
			return false, fmt.Errorf("--endpoint has %q beside %q: k3s wants one scheme", e, endpoints[0])
		}
	}
	return first == "https" || first == "unixs", nil
}

// issue writes a client's certificate and the authority's for k3s.
func (s *k3sDatastore) issue(c *cli.Context) error {
	token, err := server.StoredAuthority(c.String("data-dir"))
	if err != nil {
		return err
	}
	folder, err := filepath.Abs(c.String("certs"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	prefix := filepath.Join(folder, "limpet-client")
	s.CA, s.Cert, s.Key = filepath.Join(folder, "limpet-ca.crt"), prefix+".crt", prefix+".key"
	if err := mayWrite(s.CA, c.Bool("force")); err != nil {
		return err
	}
	ca, err := token.CAPEM()
	if err != nil {
		return err
	}
	cert, key, err := token.IssueClient(c.String("cn"), nil)
	if err != nil {
		return err
	}
	if err := writePair(prefix, cert, key, c.Bool("force")); err != nil {
		return err
	}
	return writePublic(s.CA, ca)
}
