"""Beam SQL, which is Java's, in Python's pipelines."""
import typing

import apache_beam as beam
from apache_beam import coders
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.sql import SqlTransform
from apache_beam.transforms.window import FixedWindows
from apache_beam.transforms.window import TimestampedValue


class Shopper(typing.NamedTuple):
  shopper: str
  cart: typing.Optional[str]
  cents: int


class Country(typing.NamedTuple):
  who: str
  country: str


coders.registry.register_coder(Shopper, coders.RowCoder)
coders.registry.register_coder(Country, coders.RowCoder)

SHOPPERS = [
    Shopper('bob', 'bread', 200), Shopper('alice', 'milk', 120), Shopper('bob', None, 0),
    Shopper('eve', 'bread', 210), Shopper('alice', 'jam', 300)]


def shoppers(p):
  return p | 'Shoppers' >> beam.Create(SHOPPERS).with_output_types(Shopper)


def test_filter_and_project(java, options):
  with beam.Pipeline(options=options()) as p:
    rows = shoppers(p) | SqlTransform(
        "SELECT UPPER(shopper) AS name, cents + 1 AS more FROM PCOLLECTION WHERE cart = 'bread'",
        expansion_service=java)
    assert_that(rows | beam.Map(tuple), equal_to([('BOB', 201), ('EVE', 211)]))


def test_aggregate(java, options):
  with beam.Pipeline(options=options()) as p:
    rows = shoppers(p) | SqlTransform(
        'SELECT shopper, COUNT(cart) AS n, SUM(cents) AS total FROM PCOLLECTION GROUP BY shopper',
        expansion_service=java)
    assert_that(rows | beam.Map(tuple), equal_to([('bob', 1, 200), ('alice', 2, 420), ('eve', 1, 210)]))


def test_join(java, options):
  with beam.Pipeline(options=options()) as p:
    countries = p | 'Countries' >> beam.Create(
        [Country('bob', 'fr'), Country('alice', 'is')]).with_output_types(Country)
    rows = {'s': shoppers(p), 'c': countries} | SqlTransform(
        'SELECT s.shopper, s.cents, c.country FROM s JOIN c ON s.shopper = c.who WHERE s.cents > 150',
        expansion_service=java)
    assert_that(rows | beam.Map(tuple), equal_to([('bob', 200, 'fr'), ('alice', 300, 'is')]))


def test_windows(java, options):
  with beam.Pipeline(options=options()) as p:
    rows = (
        p
        | beam.Create(range(10))
        | beam.Map(lambda i: TimestampedValue(Shopper('s', None, i), i)).with_output_types(Shopper)
        | beam.WindowInto(FixedWindows(4))
        | SqlTransform(
            'SELECT shopper, COUNT(*) AS n, SUM(cents) AS total FROM PCOLLECTION GROUP BY shopper',
            expansion_service=java))
    assert_that(rows | beam.Map(tuple), equal_to([('s', 4, 6), ('s', 4, 22), ('s', 2, 17)]))


def test_as_a_service_of_the_pipeline(java, options):
  """The pipeline says nothing of a service, as written by users: an option does."""
  services = '--beam_services={":sdks:java:extensions:sql:expansion-service:shadowJar": "%s"}' % java
  with beam.Pipeline(options=options(services)) as p:
    rows = shoppers(p) | SqlTransform('SELECT COUNT(*) AS n FROM PCOLLECTION')
    assert_that(rows | beam.Map(tuple), equal_to([(5, )]))
