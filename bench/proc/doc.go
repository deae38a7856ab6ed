// Package proc reads from /proc what a process costs: time of processors and resident memory.
package proc
