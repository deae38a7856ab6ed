// Package proc reads from /proc what a process costs: processor time and resident memory.
package proc
