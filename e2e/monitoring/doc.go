// Package monitoring answers: do the alert rules and the dashboard of deploy/monitoring
// fit what limpet shows?
//
// Prometheus' own parser and engine read them, on series that should and should not
// fire an alert (testdata/alerts.txt) and on those of three members that run. They are
// a module of their own, so that the versions of Prometheus' libraries stay out of
// everything else.
package monitoring
