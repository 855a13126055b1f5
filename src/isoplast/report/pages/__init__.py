"""The pages: of a study, of one inspected network, of the measured spectra."""
