//go:build lab

package lab

import "errors"

func serveCrowd(args []string) error { return errors.New("todo") }
