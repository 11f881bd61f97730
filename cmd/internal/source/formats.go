package source

import (
	"log/slog"

	"github.com/fukanchik/pg0/probackup"
)

// formats has one line for each backup tool.
var formats = map[string]opener{
	"probackup": openProbackup,
}

func openProbackup(r Ref, logger *slog.Logger) (Catalog, error) {
	c, err := probackup.Open(r.Path, r.Instance, probackup.Options{ToolExact: r.ToolExact, Logger: logger})
	if err != nil {
		return nil, err
	}
	return c, nil
}
