// Package guide answers: do the commands in the guides of docs/ do what the guides say?
//
// A fenced block whose language is sh has commands. The words after that say where
// they run:
//
//	```sh               on the one machine of the guide
//	```sh board2        on one of three, board1 to board3
//	```sh boards        on each of the three
//	```sh installed     where install.sh has installed the service: TestGuides and its like in e2e/install
//	```sh shown         nowhere; the list in guide_test.go has the reason for each
//
// What stands in a comment line below a command is part of what it prints, … for
// anything. "# by and by: TEXT" has the command repeated until it prints that, and
// "# fails: TEXT" or "# by and by fails: TEXT" expects that it fails. A command without any of these must end well.
//
// Each machine is a shell that lives as long as the guide, as its user's would, in
// namespaces of its own for network, files, processes and its name; so port 2379 and
// /var/lib/limpet are free. There is no systemd: systemctl, journalctl and sudo are
// stand-ins that start and stop limpet with /etc/limpet/config.yaml.
package guide
