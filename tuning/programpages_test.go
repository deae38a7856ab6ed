package tuning

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A program goes on after its pages were given back, and fewer of them are resident.
func TestTrimProgram(t *testing.T) {
	needMeasurable(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := residentFile(t)
	trimProgram()
	after := residentFile(t)
	if isAtFixedAddress(program) && after >= before {
		t.Errorf("%d kB of the program's file were resident before, %d kB after", before, after)
	}
}

func residentFile(t *testing.T) (kB int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			kB, err = strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
		}
	}
	if err != nil || kB == 0 {
		t.Fatalf("RssFile: %v", err)
	}
	return kB
}

// A file that is not ELF, or is relocated, is not at a fixed address.
func TestIsAtFixedAddress(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want bool
	}{
		"exec": {"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00", true},
		"dyn":  {"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00", false},
		"text": {"#!/bin/sh", false},
	} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := isAtFixedAddress(file); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if isAtFixedAddress(filepath.Join(t.TempDir(), "none")) {
		t.Error("a file that is not there is at a fixed address")
	}
}
