package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ginnel/bench/report"
)

// The names of the files with figures and charts in the directory docs, without extension.
const (
	switchFiles = "benchmarks"
	pathFiles   = "paths"
)

// SaveSwitch writes the files that the options name, from a comparison on the switch.
func (o *Options) SaveSwitch(r *report.Results) error {
	if err := save(r, r.Chart(), o.JSON, o.SVG); err != nil || !o.Write {
		return err
	}
	paths, err := load[report.Paths](o.doc(pathFiles + ".json"))
	if err != nil {
		return err
	}
	if err := save(r, r.Chart(), o.doc(switchFiles+".json"), o.doc(switchFiles+".svg")); err != nil {
		return err
	}
	return o.page(r, paths)
}

// SavePaths writes the files that the options name, from a comparison on paths.
func (o *Options) SavePaths(p *report.Paths) error {
	if err := save(p, p.Chart(), o.JSON, o.SVG); err != nil || !o.Write {
		return err
	}
	r, err := load[report.Results](o.doc(switchFiles + ".json"))
	if err != nil {
		return err
	}
	if err := save(p, p.Chart(), o.doc(pathFiles+".json"), o.doc(pathFiles+".svg")); err != nil {
		return err
	}
	return o.page(r, p)
}

// page writes BENCHMARKS.md. A nil argument leaves out its part.
func (o *Options) page(r *report.Results, p *report.Paths) error {
	page := report.Page{
		Switch: r, SwitchChart: "docs/" + switchFiles + ".svg",
		Paths: p, PathsChart: "docs/" + pathFiles + ".svg",
	}
	return os.WriteFile(filepath.Join(o.Root, "BENCHMARKS.md"), []byte(page.Text()), 0o644)
}

// save writes figures and a chart. An empty name leaves out the file.
func save(figures any, chart []byte, figuresFile, chartFile string) error {
	if figuresFile != "" {
		b, err := json.MarshalIndent(figures, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(figuresFile, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if chartFile != "" {
		return os.WriteFile(chartFile, chart, 0o644)
	}
	return nil
}

// load reads figures. It returns nil if the file does not exist.
func load[T any](file string) (*T, error) {
	figures, err := ReadFigures[T](file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return figures, err
}

// ReadFigures reads figures from a file.
func ReadFigures[T any](file string) (*T, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	figures := new(T)
	if err := json.Unmarshal(b, figures); err != nil {
		return nil, fmt.Errorf("reading figures from %s: %w", file, err)
	}
	return figures, nil
}
