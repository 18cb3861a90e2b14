"""What each consumer's process is forked with, so that it starts within milliseconds."""

import os

import boto3
import celery.worker.state  # noqa: F401
import kombu.transport.SQS  # noqa: F401
import pycurl  # noqa: F401

from benchmarks.transport_worker import AWS, take_transport_alone

take_transport_alone()
os.environ |= AWS

import tasks.transport  # noqa: E402, F401 - alone, as another project takes it

boto3.client("sqs", region_name="us-east-1")  # reads what is known of AWS, once
