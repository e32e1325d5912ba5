package main

import (
	"context"
	"errors"
)

func runCSI(context.Context, *environment) (result, error) {
	return result{}, errors.New("not yet")
}
