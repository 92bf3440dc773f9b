package systemd

import (
	"strings"
	"testing"
)

func someService() Service {
	return Service{
		Name: "limpet-b", Bin: "/opt/bin/limpet", Config: "/etc/limpet-b/config.yaml", Data: "/mnt/card/limpet",
		User: "limpet", UnitDir: "/etc/systemd/system", Writes: []string{"/mnt/card/limpet", "/mnt/log"},
	}
}

func TestFiles(t *testing.T) {
	for kind, wants := range map[string][]string{
		Unit: {
			"ExecStart=/opt/bin/limpet server --config-file /etc/limpet-b/config.yaml\n", "StateDirectory=limpet-b\n", "User=limpet\n",
			"ReadWritePaths=-/mnt/card/limpet\nReadWritePaths=-/mnt/log\n", "ProtectHome=yes\n",
		},
		OpenRC: {
			`command="/opt/bin/limpet"`, `command_args="server --config-file /etc/limpet-b/config.yaml"`,
			"checkpath -d -m 0700 -o limpet:limpet /mnt/card/limpet\n",
		},
		Uninstall: {"name=limpet-b\n", "bin=/opt/bin/limpet\n", "data=/mnt/card/limpet\n", "unit_dir=/etc/systemd/system\n"},
		Killall:   {`"/opt/bin/limpet"`},
	} {
		text, err := someService().File(kind)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q:\n%s", kind, want, text)
			}
		}
		if strings.Contains(text, "{{") || strings.Contains(text, "<no value>") {
			t.Errorf("%s has something that was not filled in:\n%s", kind, text)
		}
	}
}

// What lies in a home must not be hidden from the service.
func TestHomes(t *testing.T) {
	for want, set := range map[string]func(*Service){
		"ProtectHome=yes\n":       func(*Service) {},
		"ProtectHome=read-only\n": func(s *Service) { s.Reads = []string{"/home/a/tls.crt"} },
	} {
		s := someService()
		set(&s)
		if text, err := s.File(Unit); err != nil || !strings.Contains(text, want) {
			t.Errorf("got %v, want %q in\n%s", err, want, text)
		}
	}
}

// The files are read by systemd and by shells: nothing that would mean something
// else there gets in.
func TestFilesRefuse(t *testing.T) {
	for _, c := range []struct {
		kind string
		set  func(*Service)
		want string
	}{
		{"upstart", func(*Service) {}, `there is no file "upstart" for a service`},
		{Unit, func(s *Service) { s.Data = "/a b" }, `"/a b" cannot stand in a file for a service`},
		{Uninstall, func(s *Service) { s.Data = "/a;rm -rf /" }, "cannot stand"},
		{Killall, func(s *Service) { s.Bin = "/$(reboot)" }, "cannot stand"},
		{Unit, func(s *Service) { s.Writes = []string{"/a\nUser=root"} }, "cannot stand"},
		{Unit, func(s *Service) { s.Name = "" }, "cannot stand"},
		{OpenRC, func(s *Service) { s.Data = "default.limpet" }, `"default.limpet" does not begin with /`},
	} {
		s := someService()
		c.set(&s)
		if text, err := s.File(c.kind); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %q, %v, want %q", text, err, c.want)
		}
	}
}
