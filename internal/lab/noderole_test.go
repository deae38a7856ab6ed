//go:build lab

package lab

import "errors"

func serveNode(args []string) error  { return errors.New("todo") }
func serveWire(args []string) error  { return errors.New("todo") }
func serveCrowd(args []string) error { return errors.New("todo") }
