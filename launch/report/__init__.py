"""What came of forecasts, for people: pictures, tables and a page."""
