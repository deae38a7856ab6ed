// Package cli is what all commands of the program share: the root command, usage errors and exit
// statuses, flags whose values are parsed when they are set, settings from the environment and from
// YAML files, secrets, and the flags of the log. The commands themselves are in the packages below
// it.
//
// The packages of the product do not import these packages, except for package main.
//
// Goroutines: a Reaper has one while it runs. It exists only in a process that inherits orphans.
package cli
