"""Joins two files of comma-separated values: what each customer has spent.

  python join.py --customers ../data/customers.csv --orders ../data/orders.csv \
      --output spent.txt --runner PortableRunner \
      --job_endpoint 127.0.0.1:8099 --environment_type LOOPBACK

Both files begin with a header line. Customers without an order are listed with
zero, orders of an unknown customer under the customer's number.
"""
import argparse
import csv
import os
import sys
import tempfile

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def read_rows(pipeline, name, path):
  return (
      pipeline
      | name >> beam.io.ReadFromText(os.path.abspath(path), skip_header_lines=1)
      | name + 'Fields' >> beam.Map(lambda line: next(csv.reader([line]))))


def spent(joined):
  customer, found = joined
  name = next(iter(found['names']), 'customer ' + customer)
  amounts = list(found['amounts'])
  return '%s: %d orders, %.2f' % (name, len(amounts), sum(amounts))


def build(pipeline, args):
  # customers.csv: number, name
  names = (
      read_rows(pipeline, 'Customers', args.customers)
      | 'NameByNumber' >> beam.Map(lambda row: (row[0], row[1])))
  # orders.csv: order, customer's number, amount
  amounts = (
      read_rows(pipeline, 'Orders', args.orders)
      | 'AmountByNumber' >> beam.Map(lambda row: (row[1], float(row[2]))))
  return ({
      'names': names, 'amounts': amounts
  }
          | 'Join' >> beam.CoGroupByKey()
          | 'Spent' >> beam.Map(spent)
          | 'Write' >> beam.io.WriteToText(
              os.path.abspath(args.output), shard_name_template=''))


def main(argv):
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--customers', required=True)
  parser.add_argument('--orders', required=True)
  parser.add_argument('--output', help='default: a temporary file')
  args, beam_args = parser.parse_known_args(argv)
  with tempfile.TemporaryDirectory() as scratch:
    args.output = args.output or os.path.join(scratch, 'spent.txt')
    with beam.Pipeline(options=PipelineOptions(beam_args)) as pipeline:
      build(pipeline, args)
    with open(args.output, encoding='utf-8') as f:
      sys.stdout.writelines(sorted(f))


if __name__ == '__main__':
  main(sys.argv[1:])
