// Package session is what the commands that compare contenders have in common: their flags, the namespace that they run in, and
// what is kept of a run.
package session
