//go:build !linux

package busypoll

import "errors"

func newSystem() (system, error) { return nil, errors.ErrUnsupported }
