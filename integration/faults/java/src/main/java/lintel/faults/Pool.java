package lintel.faults;

import org.apache.beam.fn.harness.ExternalWorkerService;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StartWorkerRequest;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StartWorkerResponse;
import org.apache.beam.model.fnexecution.v1.BeamFnExternalWorkerPoolGrpc.BeamFnExternalWorkerPoolImplBase;
import org.apache.beam.sdk.fn.server.FnService;
import org.apache.beam.sdk.fn.server.GrpcFnServer;
import org.apache.beam.sdk.fn.server.ServerFactory;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.stub.StreamObserver;

/** A worker pool of the Java SDK, for EXTERNAL environments: its workers are threads. It prints its address, and runs until it is killed. */
public class Pool extends BeamFnExternalWorkerPoolImplBase implements FnService {
  /** Starts a worker with options of its own: one that ends shuts down the executor that they hold. */
  @Override
  public void startWorker(StartWorkerRequest request, StreamObserver<StartWorkerResponse> answer) {
    new ExternalWorkerService(PipelineOptionsFactory.create()).startWorker(request, answer);
  }

  @Override
  public void close() {}

  public static void main(String[] args) throws Exception {
    var server = GrpcFnServer.allocatePortAndCreateFor(new Pool(), ServerFactory.createDefault());
    System.out.println(server.getApiServiceDescriptor().getUrl());
    Thread.currentThread().join();
  }
}
